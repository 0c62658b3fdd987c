"""`python -m tests.fuzz`: run the generators for a number of cases or hours, or a saved case once more."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from tests.fuzz.kit import FAULTS, Case, Outcome, Pool, case_at, generators, load_case, save_case

__all__ = ["main"]

#: Between two lines that say how far a run is.
_TOLD_SECONDS = 60.0


@click.group(invoke_without_command=True)
@click.option("--cases", type=int, help="Number of cases; default: as many as the hours allow.")
@click.option("--hours", type=float, help="Wall time; default: one hour where no number of cases is given.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every generator.")
@click.option(
    "--first", type=int, default=0, show_default=True, help="Number of each generator's first case."
)
@click.option("--jobs", type=int, default=2, show_default=True, help="Processes that run cases.")
@click.option("--only", multiple=True, metavar="NAME", help="A generator; default: all, in turn.")
@click.option("--save", default="build/fuzz", show_default=True, help="Folder for the cases that fail.")
@click.option("--json", "json_path", metavar="FILE", help="Write the figures there.")
@click.pass_context
def main(
    context: click.Context,
    cases: int | None,
    hours: float | None,
    seed: int,
    first: int,
    jobs: int,
    only: tuple[str, ...],
    save: str,
    json_path: str | None,
) -> None:
    """Run the fuzzer; exit status 1 where a case fails: it is saved, with the command to run it again."""
    if context.invoked_subcommand is not None:
        return
    if unknown := set(only) - set(generators()):
        raise click.ClickException(
            f"there is no generator {sorted(unknown)}: choose from {sorted(generators())}"
        )
    if cases is None and hours is None:
        hours = 1.0
    begin = time.monotonic()
    deadline = None if hours is None else begin + hours * 3600
    by_command: dict[str, Counter[str]] = {}
    by_generator: dict[str, Counter[str]] = {}
    slowest, largest, failed, told = 0.0, 0, 0, begin
    with Pool(jobs) as pool:
        for case, outcome in pool.run(_until(_in_turn(only, seed, first), cases, deadline)):
            for counts, key in ((by_command, case.argv[0]), (by_generator, case.generator)):
                counts.setdefault(key, Counter())[outcome.kind] += 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.peak)
            if time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                click.echo(
                    f"{sum(map(Counter.total, by_command.values())):,} cases, {failed} failed", err=True
                )
            if outcome.kind in FAULTS:
                failed += 1
                folder = Path(save) / f"{outcome.kind.replace(' ', '-')}-{seed}-{failed}"
                save_case(folder, case, outcome)
                click.echo(_told(case, outcome) + f"\n  python -m tests.fuzz replay {folder}", err=True)
    total = sum(map(Counter.total, by_command.values()))
    figures = {
        "seed": seed,
        "cases": total,
        "failed": failed,
        "seconds": round(time.monotonic() - begin, 1),
        "slowest_seconds": round(slowest, 2),
        "peak_megabytes": largest >> 20,
        "commands": _plain(by_command),
        "generators": _plain(by_generator),
    }
    text = json.dumps(figures, indent=2)
    click.echo(text)
    if json_path is not None:
        Path(json_path).write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if failed else 0)


@main.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...")
def replay(folders: tuple[str, ...]) -> None:
    """Run saved cases once more."""
    failed = False
    with Pool() as pool:
        for case, outcome in pool.run(load_case(Path(folder)) for folder in folders):
            click.echo(_told(case, outcome))
            failed |= outcome.kind in FAULTS
    sys.exit(1 if failed else 0)


def _in_turn(only: tuple[str, ...], seed: int, first: int) -> Iterator[Case]:
    """One case of each generator after the other."""
    streams = [
        case_at(generator, name, seed, first)
        for name, generator in generators().items()
        if not only or name in only
    ]
    while True:
        for stream in streams:
            yield next(stream)


def _plain(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {key: dict(sorted(kinds.items())) for key, kinds in sorted(counts.items())}


def _until(stream: Iterator[Case], cases: int | None, deadline: float | None) -> Iterator[Case]:
    number = 0
    while (cases is None or number < cases) and (deadline is None or time.monotonic() < deadline):
        yield next(stream)
        number += 1


def _told(case: Case, outcome: Outcome) -> str:
    """A case and its end in a few lines; control characters are escaped."""
    said = (outcome.stderr or outcome.stdout)[-600:]
    return (
        f"{outcome.kind}: {case.name!r}: systolith {' '.join(case.argv)}: status {outcome.status}, "
        f"{outcome.seconds:.1f} s, {outcome.peak >> 20} MB\n  {said!r}"
    )


if __name__ == "__main__":
    main()

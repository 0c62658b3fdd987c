"""Figures of runs of the fuzzer together: what `python -m tests.fuzz --json` wrote.

.venv/bin/python benchmarks/fuzz.py RUN.json... [--record]
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from record import record

__all__ = ["added", "main"]


def added(runs: list[dict]) -> dict:
    """One set of figures of several runs; the seeds are listed.

    A run that does not count by generator is part of the totals and of the commands only.
    """
    counts: dict[str, dict[str, Counter[str]]] = {"commands": {}, "generators": {}}
    for run in runs:
        for what, found in counts.items():
            for key, kinds in run.get(what, {}).items():
                found.setdefault(key, Counter()).update(kinds)
    return {
        "seeds": sorted({run["seed"] for run in runs}),
        "cases": sum(run["cases"] for run in runs),
        "failed": sum(run["failed"] for run in runs),
        "hours": round(sum(run["seconds"] for run in runs) / 3600, 2),
        "slowest_seconds": max(run["slowest_seconds"] for run in runs),
        "peak_megabytes": max(run["peak_megabytes"] for run in runs),
        **{
            what: {key: dict(sorted(kinds.items())) for key, kinds in sorted(found.items())}
            for what, found in counts.items()
        },
    }


def main() -> None:
    """Print the figures, and write them where they are to be recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.json")
    parser.add_argument("--record", action="store_true", help="write results/fuzz.json")
    arguments = parser.parse_args()
    figures = added([json.loads(path.read_text(encoding="utf-8")) for path in arguments.runs])
    print(json.dumps(figures, indent=1))
    if arguments.record:
        seeds = ", ".join(map(str, figures["seeds"]))
        record("fuzz", f"python -m tests.fuzz --json RUN.json, with --seed {seeds}", figures, [])


if __name__ == "__main__":
    main()

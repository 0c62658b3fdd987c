"""What the core runs of many models: share of the multiply-accumulates, cycles, distance from float, and what
stays on the host.

    .venv/bin/python benchmarks/families.py FOLDER... [--arch A] [--jobs N] [--timeout S] [--json FILE]
    [--record]

A folder holds models NAME.onnx with calibration samples NAME.npz; other files are left out. Each model goes
through `systolith verify` on reference and machine. Its family is the first in `families.json` (or --table)
with a pattern for NAME, else the folder's name; what stands behind two underscores in NAME is its exporter.
Exit status 1 where a backend differs or a command ends otherwise than with a result or a refusal.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from record import record

from systolith.report import Reporter, write_json
from systolith.spec.ranges import FAR

__all__ = [
    "SHOWN",
    "by_family",
    "exporter_of",
    "family_of",
    "main",
    "measure",
    "row_of",
    "shown",
    "summary",
]

TABLE = Path(__file__).with_name("families.json")
#: The command beside this Python.
COMMAND = Path(sys.executable).with_name("systolith")
#: Kinds of reasons that a row keeps, the ones of most nodes first.
REASONS = 3
#: From these shares of the multiply-accumulates on the core a model counts as whole, and as mostly there.
WHOLE, MOST = 0.999, 0.9
#: Exit statuses with a report: bit-exact, and a difference.
REPORTED = (0, 1)
REFUSED = 2
COLUMNS = ("model", "family", "exporter", "ends as", "MACs", "on core", "cycles", "SNR", "s", "note")
#: Columns of the page.
SHOWN = ("model", "exporter", "MACs", "on the core", "cycles", "from float", "seconds", "on the host")
Families = Mapping[str, Sequence[str]]


class FolderError(ValueError):
    """A folder or table that cannot be measured; one sentence."""


def families(table: Path) -> Families:
    """Patterns of names by family."""
    return json.loads(table.read_text(encoding="utf-8"))["families"]


def family_of(path: Path, known: Families) -> str:
    """The first family with a pattern for a model's name, else the folder's name."""
    for family, patterns in known.items():
        if any(fnmatchcase(path.stem, pattern) for pattern in patterns):
            return family
    return path.resolve().parent.name


def exporter_of(path: Path) -> str | None:
    """What follows two underscores in a model's name."""
    _, mark, exporter = path.stem.rpartition("__")
    return exporter if mark else None


def models_of(folders: Iterable[Path]) -> list[Path]:
    """The models of the folders that have samples.

    Raises
    ------
    FolderError   If there is none, or two have the same name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.onnx")):
            if not path.with_suffix(".npz").is_file():
                continue
            if path.stem in found:
                raise FolderError(f"two folders hold a model {path.stem!r}: rename one")
            found[path.stem] = path
    if not found:
        raise FolderError("the folders hold no NAME.onnx with samples NAME.npz")
    return list(found.values())


def row_of(report: dict) -> dict:
    """What a row keeps of `verify`'s report."""
    host = report["host_nodes"]
    reasons: dict[str, Counter] = {}
    for node in host:
        reasons.setdefault(node["reason"], Counter())[node["op"]] += 1
    # Where a reason is named by many nodes, those come first; else the order of the model.
    largest = sorted(reasons.items(), key=lambda item: -item[1].total())
    # A model that is quantised in its file has nothing to compare with.
    levels = report["snr_db"].get("outputs", {})
    finite = [value for value in levels.values() if value is not None]
    return {
        "ends_as": "exact" if report["bit_exact"] else "differs",
        "macs": report["macs"] + report["host_macs"],
        "macs_known": report["host_macs_known"],
        "core_share": report["core_share"],
        "cycles": report["cycles"],
        "snr_db": round(min(finite), 1) if finite else None,
        "equals_float": bool(levels) and not finite,
        "steps": [step["where"] for step in report["steps"]],
        "host_nodes": len(host),
        "host": [{"reason": reason, "nodes": dict(ops)} for reason, ops in largest[:REASONS]],
    }


def measure(path: Path, known: Families, arch: str, timeout: float) -> dict:
    """One model.

    The command runs in the model's folder, so that no sentence of it names where that folder lies.
    """
    row = {"name": path.stem, "family": family_of(path, known), "exporter": exporter_of(path)}
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        words = ["verify", path.name, "--calib", path.with_suffix(".npz").name, "--arch", arch]
        words += ["--on", "reference,machine", "--json", str(report), "--host-only"]
        start = time.monotonic()
        try:
            done = subprocess.run(
                [COMMAND, *words],
                cwd=path.parent,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return row | {"ends_as": "timeout", "seconds": timeout, "note": f"took more than {timeout:g} s"}
        row["seconds"] = round(time.monotonic() - start, 1)
        if done.returncode in REPORTED and report.is_file():
            return row | row_of(json.loads(report.read_text(encoding="utf-8")))
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    note = lines[-1].removeprefix("systolith: ") if lines else f"status {done.returncode}"
    refused = done.returncode == REFUSED and "internal error" not in note
    return row | {"ends_as": "refused" if refused else "failed", "note": note}


def summary(rows: Sequence[dict]) -> dict:
    """Totals: models by how they end, by the share of the multiply-accumulates on the core, and by the
    distance from float."""
    ran = [row for row in rows if row["ends_as"] == "exact"]
    shares = [row["core_share"] for row in ran if row["core_share"] is not None]
    compared = [row for row in ran if row["equals_float"] or row["snr_db"] is not None]
    return {
        "models": len(rows),
        "exact": len(ran),
        "refused": sum(row["ends_as"] == "refused" for row in rows),
        "with_products": len(shares),
        "whole": sum(share >= WHOLE for share in shares),
        "most": sum(share >= MOST for share in shares),
        "compared": len(compared),
        "near": sum(row["equals_float"] or row["snr_db"] >= FAR for row in compared),
    }


def distance(row: dict) -> str:
    """How far the worst output is from float."""
    if row.get("equals_float"):
        return "equal"
    return "-" if row.get("snr_db") is None else f"{row['snr_db']:.1f} dB"


def printed(row: dict) -> tuple[str, ...]:
    """Cells under `COLUMNS`."""
    share, macs = row.get("core_share"), row.get("macs")
    first = row["host"][0]["reason"] if row.get("host") else ""
    return (
        row["name"],
        row["family"],
        row["exporter"] or "-",
        row["ends_as"],
        "-" if macs is None else f"{macs:,}",
        "-" if share is None else f"{share:.1%}",
        f"{row['cycles']:,}" if row.get("cycles") else "-",
        distance(row),
        f"{row['seconds']:.1f}",
        row.get("note", first),
    )


def by_family(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """The rows of each family, in the order of `families.json`."""
    found: dict[str, list[dict]] = {family: [] for family in families(TABLE)}
    for row in rows:
        found.setdefault(row["family"], []).append(row)
    return {family: some for family, some in found.items() if some}


def shown(row: dict) -> tuple[str, ...]:
    """Cells under `SHOWN`."""
    return (
        f"`{row['name']}`",
        row["exporter"] or "-",
        f"{row['macs']:,}" if "macs" in row else "-",
        _tenths(row.get("core_share")),
        f"{row['cycles']:,}" if row.get("cycles") else "-",
        distance(row),
        f"{row['seconds']:.1f}",
        _on_host(row),
    )


def _tenths(share: float | None) -> str:
    """A share of which nothing is rounded away: 100 % is all."""
    if share is None:
        return "-"
    return "100 %" if share == 1 else f"{min(share, 0.9994):.1%}".replace("%", " %")


def _on_host(row: dict) -> str:
    """The operators that run on the host, with the reasons that concern most of them; or why nothing runs."""
    if "note" in row:
        return f"{row['ends_as']}: {_cell(row['note'])}"
    if not row["host_nodes"]:
        return "-"
    reasons = [
        f"{', '.join(f'{count} {op}' if count > 1 else op for op, count in reason['nodes'].items())}: "
        f"{_cell(reason['reason'])}"
        for reason in row["host"]
    ]
    rest = row["host_nodes"] - sum(sum(reason["nodes"].values()) for reason in row["host"])
    return "; ".join([*reasons, f"{rest} more for other reasons"] if rest else reasons)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--arch", default="array16")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; default: 1")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a model; default: 600")
    parser.add_argument(
        "--table", type=Path, default=TABLE, help="patterns of names by family; default: families.json"
    )
    parser.add_argument("--json", default=None)
    parser.add_argument("--record", action="store_true", help="write results/families.json, for the docs")
    given = parser.parse_args(arguments)
    try:
        paths, known = models_of(given.folders), families(given.table)
    except FolderError as error:
        print(f"families.py: {error}", file=sys.stderr)
        return 2
    rows: list[dict] = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for row in pool.map(lambda path: measure(path, known, given.arch, given.timeout), paths):
            rows.append(row)
            print(f"{len(rows)}/{len(paths)} {row['name']}: {row['ends_as']}", file=sys.stderr, flush=True)
    results = {"arch": given.arch, "summary": summary(rows), "models": rows}
    reporter = Reporter()
    reporter.table(f"models on {given.arch}", COLUMNS, [printed(row) for row in rows])
    reporter.line(", ".join(f"{count:,} {what}" for what, count in results["summary"].items()))
    write_json(given.json, results)
    if given.record:
        command = f"python benchmarks/families.py FOLDER... --arch {given.arch} --record"
        record("families", command, results, [f"programs:{given.arch}"])
    return 0 if all(row["ends_as"] in ("exact", "refused") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

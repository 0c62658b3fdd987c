"""What the demo and the commands of docs/getting-started.md print, recorded for README and docs.

    .venv/bin/python benchmarks/transcripts.py

Runs the demo, and every `sh` block of the page in order, in a folder of its own that has the examples.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from record import record

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "getting-started.md"
DEPENDS = ["core:array8", "programs:array8"]
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "-- end of block --"

__all__ = ["blocks", "run_blocks"]


def blocks() -> list[str]:
    """The commands of the page."""
    return _BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def run_blocks(folder: Path) -> list[str]:
    """What each block prints on standard output, all run in one shell in `folder`.

    Raises
    ------
    RuntimeError   If a command fails, with all that was printed.
    """
    (folder / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "".join(f"{block}\necho; echo '{_MARK}'\n" for block in blocks())
    ran = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"status {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
    return [text.strip("\n") for text in ran.stdout.split(_MARK)[:-1]]


def main() -> int:
    """Record both."""
    demo = subprocess.run(
        [sys.executable, ROOT / "examples" / "digits" / "demo.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    record("demo", "python benchmarks/transcripts.py", demo.stdout.strip("\n"), DEPENDS)
    with tempfile.TemporaryDirectory() as folder:
        outputs = run_blocks(Path(folder))
    record("getting_started", "python benchmarks/transcripts.py", outputs, DEPENDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())

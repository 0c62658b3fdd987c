"""Every module of the hardware has a test that imports it, or a bench of sim/benches, which the tests run."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The hardware, and where its tests and benches are.
FOLDERS = (ROOT / "hw", ROOT / "tests", ROOT / "sim" / "benches")

#: Modules without a test of their own, and why.
EXCEPTIONS = {
    "systolith.hw.engine.cell": "a part of VECTOR, in which tests/hw/test_cell.py runs it",
    "systolith.hw.core.run_state": "names of states without behaviour; both cores' tests see them at work",
    "systolith.hw.core.trace": "names and widths of ports; tests/sim/test_locate.py compares what they show",
}


def modules(folder: Path) -> set[str]:
    """Absolute names of the modules below a folder of the hardware."""
    return {
        ".".join(["systolith", "hw", *path.relative_to(folder).with_suffix("").parts])
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }


def imported(path: Path) -> set[str]:
    """Absolute names that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def untested(hardware: Path, *tests: Path) -> set[str]:
    """Modules that no file of these folders imports."""
    files = [path for folder in tests for path in folder.rglob("*.py")]
    return modules(hardware) - set().union(*map(imported, files))


def test_every_module_is_imported_by_a_test() -> None:
    missing = untested(*FOLDERS) - EXCEPTIONS.keys()
    assert not missing, f"no test imports {', '.join(sorted(missing))}: write one in tests/hw"


def test_no_exception_is_out_of_date() -> None:
    stale = EXCEPTIONS.keys() - untested(*FOLDERS)
    assert not stale, f"{', '.join(sorted(stale))} has a test or is gone: strike it from EXCEPTIONS"


def test_a_module_without_a_test_is_found_by_name(tmp_path: Path) -> None:
    for name in ("leaf/seen.py", "leaf/unseen.py", "leaf/__init__.py"):
        path = tmp_path / "hw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_seen.py").write_text("def f():\n    from systolith.hw.leaf import seen\n")
    assert untested(tmp_path / "hw", tests) == {"systolith.hw.leaf.unseen"}

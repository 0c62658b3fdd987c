"""Imports run one way: the rule of docs/architecture.md, checked on the source text."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: What each package may import: of this project, and (where restricted) of the outside world.
ALLOWED = {
    "spec": set(),
    # The cache of builds and the programs that build.
    "tooling": {"spec"},
    "reference": {"spec"},
    "compiler": {"spec", "reference"},
    "hw": {"spec", "tooling"},
    "host": {"spec"},
    # The benches compare with the reference machine.
    "sim": {"spec", "tooling", "reference", "hw", "host"},
    "boards": {"spec", "tooling", "hw", "host"},
    "evidence": {"spec", "reference", "compiler", "hw", "host", "sim"},
}
#: Outside packages that must not be imported, by package.
FORBIDDEN = {
    "reference": {"amaranth", "onnx", "onnxruntime"},
    "compiler": {"amaranth"},
    "host": {"amaranth", "onnx", "onnxruntime"},
}
#: The one module of `host` that runs ONNX Runtime, in a process of its own, and only when a model has nodes
#: for it.
EXCEPTIONS = {("host/segment_worker.py", "onnx"), ("host/segment_worker.py", "onnxruntime")}


def imported(path: Path) -> list[tuple[str, int]]:
    """Absolute names of the modules that a file imports anywhere, function bodies too, with line numbers."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write it absolute"
            names.append((node.module, node.lineno))
            if node.module == "systolith":
                names += [(f"systolith.{alias.name}", node.lineno) for alias in node.names]
    return names


def violations(package: str, path: Path) -> list[str]:
    """One line per import that the rule forbids."""
    allowed = ALLOWED[package] | {package}
    found = []
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "systolith" and len(parts) > 1 and parts[1] not in allowed:
            found.append(f"{path}:{line}: {package} must not import {name}")
        excepted = any(parts[0] == module and path == ROOT / file for file, module in EXCEPTIONS)
        if parts[0] in FORBIDDEN.get(package, set()) and not excepted:
            found.append(f"{path}:{line}: {package} must not import {name}")
        if package in ("spec", "tooling") and parts[0] not in {"systolith", *sys.stdlib_module_names}:
            found.append(f"{path}:{line}: {package} uses the standard library only, not {name}")
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no source in {package}/"
    assert not [line for path in files for line in violations(package, path)]


def test_the_check_sees_a_violation(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from systolith.compiler import driver\n    import amaranth\n")
    assert len(violations("reference", path)) == 2
    assert len(violations("spec", path)) == 2
    path.write_text("from systolith import hw\n")
    assert len(violations("compiler", path)) == 1


def test_every_package_is_installed() -> None:
    # A plain (not editable) install takes exactly the packages that pyproject.toml lists.
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    )
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "systolith").rglob("__init__.py")
    }
    for package in ALLOWED:
        for path in (ROOT / package).rglob("__init__.py"):
            found.add(".".join(["systolith", *path.parent.relative_to(ROOT).parts]))
    assert listed == found

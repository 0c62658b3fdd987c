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
#: Floors inside a package, from the ground up: what a folder may import of its own package is itself and the
#: folders before it. '' are the files that lie in no folder.
FLOORS = {"compiler": ("base", "ops", "passes", "checks", "lower", "")}
#: Outside packages that must not be imported, by package.
FORBIDDEN = {
    "reference": {"amaranth", "onnx", "onnxruntime"},
    "compiler": {"amaranth"},
    "host": {"amaranth", "onnx", "onnxruntime"},
}
#: The one module of `host` that runs ONNX Runtime, in a process of its own, and only when a model has nodes
#: for it.
EXCEPTIONS = {("host/step_worker.py", "onnx"), ("host/step_worker.py", "onnxruntime")}


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


def imported_inside(path: Path) -> list[tuple[str, int]]:
    """As `imported`, but of ``from package import name`` the name too, which may be a module."""
    names = imported(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.ImportFrom):
            names += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return names


def floor(package: str, parts: tuple[str, ...]) -> str:
    """The folder of a module or file inside its package, '' where it lies in none."""
    return parts[0] if parts and parts[0] in FLOORS[package] else ""


def floor_violations(package: str, path: Path, root: Path) -> list[str]:
    """One line per import of a floor above, in a file of `package`, whose folder is `root`."""
    order = FLOORS[package]
    own = floor(package, path.relative_to(root).parts)
    found = {}
    for name, line in imported_inside(path):
        parts = tuple(name.split("."))
        if parts[:2] == ("systolith", package) and len(parts) > 2:
            other = floor(package, parts[2:])
            if order.index(other) > order.index(own):
                found[line] = f"{path}:{line}: {own or package} must not import {name}, which lies above it"
    return list(found.values())


def circles(modules: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves by way of others; `modules` holds what each imports."""
    reached = {name: set(imports) for name, imports in modules.items()}
    for middle in modules:
        for reach in reached.values():
            if middle in reach:
                reach |= reached[middle]
    return sorted(name for name, reach in reached.items() if name in reach)


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


@pytest.mark.parametrize("package", FLOORS)
def test_no_folder_imports_one_above_it(package: str) -> None:
    root = ROOT / package
    folders = {path.parent.name for path in root.glob("*/__init__.py")}
    assert folders == set(FLOORS[package]) - {""}
    assert not [line for path in sorted(root.rglob("*.py")) for line in floor_violations(package, path, root)]


@pytest.mark.parametrize("package", FLOORS)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    modules = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(("systolith", *parts)).removesuffix(".__init__")] = path
    imports = {
        name: {other for other, _ in imported_inside(path) if other in modules and other != name}
        for name, path in modules.items()
    }
    assert not circles(imports)


def test_the_check_of_floors_sees_a_violation(tmp_path: Path) -> None:
    for name in ("base", "ops"):
        (tmp_path / name).mkdir()
    low, high, top = (tmp_path / name for name in ("base/low.py", "ops/high.py", "top.py"))
    low.write_text("def f():\n    from systolith.compiler.ops.high import g\n")
    high.write_text("from systolith.compiler.base.low import f\nfrom systolith.compiler import top\n")
    top.write_text("from systolith.compiler.ops import high\nimport systolith.compiler.base.low\n")
    found = {path.name: len(floor_violations("compiler", path, tmp_path)) for path in (low, high, top)}
    assert found == {"low.py": 1, "high.py": 1, "top.py": 0}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


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

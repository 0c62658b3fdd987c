"""An operator is one file each in `reference`, `compiler/ops` and `compiler/lower`; nothing else names it.
This says which operator lacks what."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import systolith.compiler.lower  # noqa: F401 (fills the registry)
from systolith.compiler.capability import supported_ops_markdown
from systolith.compiler.driver import compile_levels
from systolith.compiler.lower.registry import LOWERINGS, rule_of
from systolith.compiler.ops import RULES
from systolith.reference.footprint import footprint
from systolith.reference.graph import Op, QNode
from systolith.reference.registry import operators
from tests.graphs import ARCHS, GraphBuilder

ROOT = Path(__file__).resolve().parents[2]
#: Files that may name operators: their own, and those that build graphs of certain ones.
OWN = ("reference", "compiler/ops", "compiler/lower")


def drawn() -> set[str]:
    """Operators that some method of the random-graph generator makes."""
    tree = ast.parse(Path(ROOT, "tests/graphs.py").read_text(encoding="utf-8"))
    return {
        call.func.id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }


def lacks(name: str, op: type[Op]) -> list[str]:
    """What an operator of the quantised graph lacks."""
    found = []
    if "run" not in vars(op) and not any("run" in vars(base) for base in op.__mro__[1:-2]):
        found.append("run")
    if op not in LOWERINGS:
        found.append("a lowering")
    if name not in drawn():
        found.append("a method of tests.graphs.GraphBuilder")
    return found


def test_there_are_operators() -> None:
    assert {"Conv", "Add", "Recurrent", "Reshape"} <= set(operators())
    assert {"Conv", "Add", "LSTM", "Scan"} <= set(RULES)


@pytest.mark.parametrize("name", operators())
def test_an_operator_lacks_nothing(name: str) -> None:
    assert not lacks(name, operators()[name])


def test_a_lack_is_named() -> None:
    class Nothing(Op):
        """It can do nothing."""

    assert lacks("Nothing", Nothing) == ["run", "a lowering", "a method of tests.graphs.GraphBuilder"]
    node = QNode(name="n", op=Nothing(), inputs=("x",), output="y", op_type="Nothing", sources=())
    with pytest.raises(Exception, match="Nothing has no rule for this core"):
        rule_of(node)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_a_docs_row_and_its_constraints_a_sentence(name: str) -> None:
    assert f"| {name} |" in supported_ops_markdown()
    assert f"| {name} |" in Path(ROOT, "docs/operators.md").read_text(encoding="utf-8"), "make docs"
    rule = RULES[name]
    assert rule.convert.__doc__ or rule.convert.__name__.startswith("_")
    assert all(
        constraint.__doc__ and constraint.__doc__.rstrip().endswith(".") for constraint in rule.constraints
    )


def test_nothing_else_names_an_operator() -> None:
    modules = {op.__module__ for op in operators().values()}
    named = []
    for package in ("compiler", "evidence", "host"):
        for path in Path(ROOT, package).rglob("*.py"):
            where = path.relative_to(ROOT).as_posix()
            if where.startswith(OWN):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module in modules:
                    named.append(f"{where}:{node.lineno} imports {node.module}")
    for path in (Path(ROOT, "compiler/lower", name) for name in ("graph.py", "orders.py", "operands.py")):
        assert "isinstance" not in path.read_text(encoding="utf-8"), path
    assert not named


def test_every_instruction_of_a_rule_has_a_footprint() -> None:
    """A graph of every operator that the generator draws, from which `footprint` is read."""
    seen: set[str] = set()
    for seed in range(40):
        graph = GraphBuilder(seed).grow(8, 6)
        levels = compile_levels(graph, ARCHS["array8"])
        seen |= {type(node.op).__name__ for node in graph.nodes}
        for instr in levels.part.lowering.instrs:
            assert footprint(instr, ARCHS["array8"]) or instr.mnemonic == "HALT", instr
        if seen >= set(operators()) - {"Recurrent"}:
            break
    assert not set(operators()) - {"Recurrent"} - seen

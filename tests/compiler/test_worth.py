"""What runs on a core, by cost and by size."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler import partition
from systolith.compiler.partition import prepare
from systolith.compiler.regions import schedule
from systolith.compiler.worth import unfitting, unworthy
from systolith.host.runner import Runner
from systolith.reference.plan import ReferenceCores
from systolith.spec.arch import load_arch

ARRAY16, TINY = load_arch("array16"), load_arch("tiny")


def built(nodes, shape, **constants):
    """A float model from x to y, prepared on samples of its input."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    values[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = [
        helper.make_node(op, inputs.split(), [output], name, **attributes)
        for op, inputs, output, name, attributes in nodes
    ]
    graph = helper.make_graph(made, "worth", values[:1], values[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    samples = np.random.default_rng(0).normal(0, 1, (4, *shape)).astype(np.float32)
    return prepare(model, {"x": samples})


def weights(*shape):
    return np.random.default_rng(1).normal(0, shape[0] ** -0.5, shape).astype(np.float32)


AXIS = np.int64(1)


def between(function="Sigmoid", size=32, wide=False):
    """A layer, then a function and a layer between nodes of the host, then a layer."""
    middle = [("MatMul", "b v", "c", "middle", {})] if wide else [(function, "b", "c", "function", {})]
    return built(
        [
            ("MatMul", "x w", "a", "first", {}),
            ("CumSum", "a axis", "b", "sums", {}),
            *middle,
            ("Add", "c a", "d", "joined", {}),
            ("CumSum", "d axis", "e", "sums_again", {}),
            ("MatMul", "e u", "y", "last", {}),
        ],
        (1, size),
        w=weights(size, size),
        u=weights(size, size),
        axis=AXIS,
        **({"v": weights(size, size)} if wide else {}),
    )


def hosts(plan):
    return {node.name: node.reason for node in plan.host_nodes}


def test_a_small_function_between_nodes_of_the_host_stays_with_them():
    prepared = between()
    # The sum could run on a core; the function reads the host alone.
    assert set(hosts(prepared.plan())) == {"sums", "function", "sums_again"}
    plan = prepared.plan(ARRAY16)
    assert set(hosts(plan)) == {"sums", "function", "joined", "sums_again"}
    assert [type(step).__name__ for step in plan.steps] == ["CorePart", "HostStep", "CorePart"]
    assert [node.op_type for part in plan.cores for node in part.graph.nodes] == ["MatMul", "MatMul"]


def test_the_reason_tells_the_bytes():
    prepared = between()
    walked, _ = prepared.divided()
    moved = unworthy(walked, schedule(walked), ARRAY16)
    assert moved and not {"first", "last"} & set(moved)
    for error in moved.values():
        assert "it stays with its neighbours on the host" in error.reason
        assert "bytes to and from the core would cost more than they save" in error.reason


def test_a_large_product_between_nodes_of_the_host_runs_on_the_core():
    plan = between(size=256, wide=True).plan(ARRAY16)
    found = {name for part in plan.cores for node in part.graph.nodes for name in node.sources}
    assert {"first", "middle", "last"} <= found


def test_products_stay_where_nothing_else_would_be_left():
    """Four multiplications are less than their transfers, but they are all that there is for the core."""
    prepared = built(
        [
            ("CumSum", "x axis", "a", "before", {}),
            ("MatMul", "a w", "b", "product", {}),
            ("CumSum", "b axis", "y", "behind", {}),
        ],
        (1, 2),
        w=weights(2, 2),
        axis=AXIS,
    )
    plan = prepared.plan(ARRAY16)
    assert set(hosts(plan)) == {"before", "behind"} and len(plan.cores) == 1


def test_a_whole_model_has_no_neighbour_to_stay_with():
    plan = built([("Sigmoid", "x", "y", "function", {})], (1, 4)).plan(ARRAY16)
    assert not plan.host_nodes and len(plan.cores) == 1


def test_what_does_not_fit_a_core_runs_on_the_host_with_the_reason():
    """One sum over 20000 elements, of which a core with 8 KiB cannot hold half."""
    prepared = built(
        [
            ("MatMul", "x w", "a", "long", {}),
            ("Relu", "a", "b", "relu", {}),
            ("MatMul", "b u", "y", "short", {}),
        ],
        (1, 20000),
        w=weights(20000, 8),
        u=weights(8, 4),
    )
    assert not prepared.plan(ARRAY16).host_nodes
    plan = prepared.plan(TINY)
    moved = hosts(plan)
    assert set(moved) >= {"long"} and "short" not in moved
    assert "bytes of activation SRAM" in moved["long"]
    # The same sentence is not looked for twice.
    walked, known = prepared.walked(None, {}), {}
    first = unfitting(walked, TINY, known)
    assert set(first) >= {"long"} and unfitting(walked, TINY, dict(known)).keys() == first.keys()


@pytest.mark.parametrize("seed", range(6))
def test_rounds_end_and_the_plan_runs(seed, monkeypatch):
    """Whatever moved, the plan computes what the float model does; and it does not depend on the bound of
    rounds."""
    rng = np.random.default_rng(seed)
    nodes, known, constants = [], ["x"], {"axis": AXIS}
    for index in range(14):
        x, y = (known[int(rng.integers(max(0, len(known) - 3), len(known)))] for _ in range(2))
        kind = rng.choice(["MatMul", "CumSum", "CumSum", "Sigmoid", "Add", "Relu"])
        operands = {"MatMul": f"{x} w{index}", "CumSum": f"{x} axis", "Add": f"{x} {y}"}.get(kind, x)
        if kind == "MatMul":
            constants[f"w{index}"] = rng.normal(0, 0.3, (8, 8)).astype(np.float32)
        name = f"t{index}"
        nodes.append((str(kind), operands, name, f"n{index}", {}))
        known.append(name)
    nodes.append(("Sigmoid", known[-1], "s", "squash", {}))
    nodes.append(("Add", f"s {known[-2]}", "y", "end", {}))
    prepared = built(nodes, (1, 8), **constants)
    plan = prepared.plan(ARRAY16)
    calls = []
    walked = type(prepared).walked
    monkeypatch.setattr(type(prepared), "walked", lambda *given: calls.append(1) or walked(*given))
    monkeypatch.setattr(partition, "_ROUNDS", 50)
    more = prepared.plan(ARRAY16)
    assert len(calls) <= 8
    assert hosts(more) == hosts(plan) and len(more.steps) == len(plan.steps)
    sample = np.random.default_rng(9).normal(0, 1, (1, 8)).astype(np.float32)
    result = Runner(plan).run({"x": sample}, ReferenceCores(plan)).outputs["y"]
    session = onnxruntime.InferenceSession(prepared.whole.to_proto().SerializeToString())
    (expected,) = session.run(["y"], {"x": sample})
    assert np.square(expected - result).sum() < 0.01 * np.square(expected).sum()

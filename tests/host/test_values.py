"""Whatever a tensor of the host's steps may be: types, scalars, nothing at all, sequences."""

from __future__ import annotations

import re
import socket
import threading
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.arrays import check_inputs, load_arrays, random_inputs, save_arrays
from systolith.errors import ApiError
from systolith.host.inputs import InputError, port_specs
from systolith.host.runner import HostStepError, PlanRun, Runner
from systolith.host.sequences import described, equal, extents, flat
from systolith.host.step_wire import WireError, receive, send
from systolith.reference.plan import Plan
from systolith.results import RunResult
from systolith.spec.plan import HostNode, HostStep, Port

ELEMENTS = {
    name: helper.np_dtype_to_tensor_dtype(np.dtype(name))
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}


def step(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, onnx.TypeProto],
    outputs: dict[str, onnx.TypeProto],
    constants: dict[str, np.ndarray] | None = None,
) -> HostStep:
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_value_info(name, kind) for name, kind in inputs.items()],
        [helper.make_value_info(name, kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    node = HostNode(name="n", op=nodes[0].op_type, reason="", macs=0, elements=None, bytes=0)
    return HostStep(
        model=model.SerializeToString(), inputs=tuple(inputs), outputs=tuple(outputs), nodes=(node,)
    )


def tensor(element: int, shape: list[int | str] | None = None) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(element, shape)


def sequence(element: int = TensorProto.FLOAT) -> onnx.TypeProto:
    return helper.make_sequence_type_proto(tensor(element))


def plan(steps: list[HostStep], inputs: list[Port], outputs: list[Port]) -> Plan:
    return Plan(name="m", steps=tuple(steps), inputs=tuple(inputs), outputs=tuple(outputs))


def run(model: Plan, arrays: dict[str, np.ndarray]) -> PlanRun:
    def no_core(*_: object) -> dict[str, np.ndarray]:
        raise AssertionError("this plan has no core step")

    return Runner(model).run(arrays, no_core)


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("shape", [(), (2, 3), (0, 3), (1,)])
def test_every_type_and_shape_passes(dtype: str, shape: tuple[int, ...]) -> None:
    kind = tensor(ELEMENTS[dtype], list(shape))
    passed = step([helper.make_node("Identity", ["x"], ["y"])], {"x": kind}, {"y": kind})
    port = Port(name="x", shape=shape, dtype=dtype)
    model = plan([passed], [port], [Port(name="y", shape=shape, dtype=dtype)])
    arrays = random_inputs(model, 3)
    check_inputs(arrays, port_specs(model.inputs), model.formats)
    given = run(model, arrays).outputs["y"]
    np.testing.assert_array_equal(given, arrays["x"], strict=True)


def test_nan_and_infinity_are_for_the_host_to_read() -> None:
    kind = tensor(TensorProto.FLOAT, [3])
    passed = step([helper.make_node("IsNaN", ["x"], ["y"])], {"x": kind}, {"y": tensor(TensorProto.BOOL)})
    model = plan([passed], [Port(name="x", shape=(3,), dtype="float32")], [])
    arrays = {"x": np.array([np.nan, np.inf, 1], np.float32)}
    check_inputs(arrays, port_specs(model.inputs), model.formats)
    flags = run(model, arrays).values["y"]
    assert isinstance(flags, np.ndarray) and flags.tolist() == [True, False, False]
    with pytest.raises(InputError, match=r"^input 'x' holds NaN: give numbers, as int8 has nothing else$"):
        check_inputs(arrays, port_specs(model.inputs), {"x"})
    check_inputs({"x": np.array([np.inf, -np.inf, 1], np.float32)}, port_specs(model.inputs), {"x"})


def texts_plan() -> Plan:
    kind = tensor(TensorProto.STRING, [2])
    passed = step([helper.make_node("Identity", ["t"], ["y"])], {"t": kind}, {"y": kind})
    port = Port(name="t", shape=(2,), dtype="object")
    return plan([passed], [port], [Port(name="y", shape=(2,), dtype="object")])


def test_texts_go_through_files(tmp_path: Any) -> None:
    model = texts_plan()
    save_arrays(tmp_path / "x.npz", {"t": np.array(["ü", "abc"], object)})
    arrays = load_arrays(tmp_path / "x.npz", "inputs")
    assert arrays is not None
    check_inputs(arrays, port_specs(model.inputs), model.formats)
    outputs = run(model, dict(arrays)).outputs
    save_arrays(tmp_path / "y.npz", outputs)
    with np.load(tmp_path / "y.npz") as found:
        assert found["y"].tolist() == ["ü", "abc"]


def test_texts_are_not_drawn_at_random() -> None:
    with pytest.raises(ApiError, match=r"^input 't' takes texts, which are not drawn at random"):
        random_inputs(texts_plan(), 0)


def split(name: str = "parts") -> HostStep:
    return step(
        [helper.make_node("SplitToSequence", ["x", "sizes"], [name], axis=1)],
        {"x": tensor(TensorProto.FLOAT, [2, 5])},
        {name: sequence()},
        {"sizes": np.array([2, 0, 3], np.int64)},
    )


X = np.arange(10, dtype=np.float32).reshape(2, 5)
INPUT = Port(name="x", shape=(2, 5), dtype="float32")


def test_a_sequence_is_an_output(tmp_path: Any) -> None:
    result = run(plan([split()], [INPUT], [Port(name="parts", shape=None, dtype="sequence")]), {"x": X})
    parts = result.outputs["parts"]
    assert isinstance(parts, list)
    for part, right in zip(parts, (X[:, :2], X[:, 2:2], X[:, 2:]), strict=True):
        np.testing.assert_array_equal(part, right, strict=True)
    save_arrays(tmp_path / "y.npz", result.outputs)
    with np.load(tmp_path / "y.npz") as found:
        assert sorted(found) == ["parts_0", "parts_1", "parts_2"]
        np.testing.assert_array_equal(found["parts_2"], X[:, 2:], strict=True)
    shown = RunResult(
        outputs=result.outputs, raw={}, values=result.values, written={}, steps=(), load_cycles=0
    )
    assert "'parts' sequence of 3 tensors" in repr(shown) and "sequence of 3" in shown._repr_html_()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_sequence_goes_from_step_to_step(count: int) -> None:
    made = step(
        [
            helper.make_node("SequenceConstruct", ["x"] * count, ["parts"])
            if count
            else helper.make_node("SequenceEmpty", [], ["parts"])
        ],
        {"x": tensor(TensorProto.FLOAT, [2, 5])} if count else {},
        {"parts": sequence()},
    )
    counted = step(
        [helper.make_node("SequenceLength", ["parts"], ["n"])],
        {"parts": sequence()},
        {"n": tensor(TensorProto.INT64, [])},
    )
    result = run(plan([made, counted], [INPUT], [Port(name="n", shape=(), dtype="int64")]), {"x": X})
    assert result.outputs["n"] == count
    assert len(result.values["parts"]) == count


def test_a_list_of_maps_is_refused_by_name() -> None:
    maps = step(
        [
            helper.make_node(
                "ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3, 4]
            )
        ],
        {"x": tensor(TensorProto.FLOAT, [2, 5])},
        {
            "maps": helper.make_sequence_type_proto(
                helper.make_map_type_proto(TensorProto.INT64, tensor(TensorProto.FLOAT))
            )
        },
    )
    message = (
        "ONNX Runtime stopped in the host's step 1 (node 'n'): the output 'maps' is neither a tensor nor a "
        "sequence of tensors; change the model"
    )
    with pytest.raises(HostStepError, match=f"^{re.escape(message)}$"):
        run(plan([maps], [INPUT], [Port(name="maps", shape=None, dtype="sequence")]), {"x": X})


def test_names_of_a_sequence_that_are_taken() -> None:
    values = {"y": [X, X + 1], "y_1": X + 2}
    found = flat(values)
    assert sorted(found) == ["y_1", "y__0", "y__1"]
    np.testing.assert_array_equal(found["y_1"], X + 2)
    np.testing.assert_array_equal(found["y__1"], X + 1)


def test_values_are_described_and_compared() -> None:
    assert described(X) == "float32[2, 5]" and extents(X) == [2, 5]
    assert described([X]) == "sequence of 1 tensor" and extents([X, X[0]]) == [[2, 5], [5]]
    assert equal([X, X * np.nan], [X, X * np.nan]) and equal([], [])
    assert not equal([X], X) and not equal([X], [X, X]) and not equal([X], [X + 1])
    assert not equal(X, X.astype(np.float64))


def test_a_sequence_that_lacks_tensors_is_not_accepted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(ours, {"ready": True}, {"s": [X, X]}))
        sender.start()
        header, values, _ = receive(theirs)
        sender.join()
        assert header == {"ready": True} and equal(values["s"], [X, X])
        text = b'{"arrays": [["s", "sequence", [2], 0], ["s", "int8", [1], 1]], "extra": 0}'
        ours.sendall(len(text).to_bytes(4, "little") + text + b"\0")
        with pytest.raises(WireError, match="'s' does not have the tensors of its sequence"):
            receive(theirs)


def test_quantised_nodes_on_the_host_give_what_onnx_defines() -> None:
    """ONNX Runtime's kernels for what lies between DequantizeLinear and QuantizeLinear round in another
    way."""
    rng = np.random.default_rng(5)
    constants = {
        "s": np.array(0.02, np.float32),
        "z": np.array(3, np.uint8),
        "t": np.array(0.004, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Softmax", ["d"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "t", "z"], ["y"]),
    ]
    quantised = step(
        nodes,
        {"x": tensor(TensorProto.FLOAT, [200, 16])},
        {"y": tensor(TensorProto.UINT8, [200, 16])},
        constants,
    )
    x = rng.normal(0, 2, (200, 16)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(quantised.model, options, providers=["CPUExecutionProvider"])
    model = plan([quantised], [Port(name="x", shape=(200, 16), dtype="float32")], [])
    given = run(model, {"x": x}).values["y"]
    np.testing.assert_array_equal(given, plain.run(None, {"x": x})[0], strict=True)

"""An echo state network from NumPy to the core: leak, sparse reservoir, readout, streams; and what a Scan
must look like."""

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith import api
from systolith.compiler.driver import compile_levels
from systolith.spec.arch import load_arch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "echo_state"))
try:
    import echo_state
finally:
    sys.path.pop(0)

STEPS, UNITS, SEED = 200, 128, 3


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The network, the path of its ONNX model, calibration samples, and the series that follows."""
    rng = np.random.default_rng(SEED)
    series = echo_state.mackey_glass(2600, rng).astype(np.float32)
    network = echo_state.fitted(series[:2000], UNITS, rng)
    path = tmp_path_factory.mktemp("echo") / "echo_state.onnx"
    onnx.save(network.to_onnx(STEPS), path)
    return network, path, {"u": series[:2000].reshape(10, STEPS, 1, 1)}, series[2000:]


def test_the_core_predicts_nearly_as_well_as_float(fitted):
    network, path, samples, series = fitted
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    partition = api.import_model(path, samples)
    assert len(partition.steps) == 1
    kept = slice(echo_state.WASHOUT, None)
    errors = {"float": [], "core": []}
    for start in (0, STEPS, 2 * STEPS - echo_state.AHEAD):
        frame = {"u": series[start : start + STEPS].reshape(STEPS, 1, 1)}
        target = series[start + echo_state.AHEAD : start + STEPS + echo_state.AHEAD][kept]
        outputs = {
            "float": session.run(None, frame)[0],
            "core": api.run_reference(partition, frame).outputs["y"],
        }
        if start == 0:
            np.testing.assert_allclose(
                outputs["float"].ravel(),
                network.states(frame["u"].ravel()) @ network.w_out + network.offset,
                atol=1e-4,
            )
        for name, value in outputs.items():
            errors[name].append(
                echo_state.normalised_error(target[:STEPS], value.ravel()[kept][: len(target)])
            )
    found = {name: float(np.mean(values)) for name, values in errors.items()}
    print(f"NRMSE {found['float']:.4f} in float, {found['core']:.4f} on the core")
    assert found["float"] < 0.06 and found["core"] < 0.1, found


def test_zero_tiles_are_skipped_and_reported(fitted):
    _, path, samples, _ = fitted
    partition = api.import_model(path, samples)
    network = fitted[0]
    info = api.explain(partition, "array16")
    (layer,) = [layer for layer in info["layers"] if layer["op"] == "Scan"]
    zero = sum(
        not network.w[i : i + 16, j : j + 16].any() for i in range(0, UNITS, 16) for j in range(0, UNITS, 16)
    )
    # A gap of up to three tiles is cheaper than another instruction.
    assert zero / 2 < layer["skipped_tiles"] <= zero
    assert layer["skipped_macs"] == layer["skipped_tiles"] * 256 * STEPS
    assert info["skipped_macs"] == layer["skipped_macs"]
    matmuls = [
        instr
        for instr in compile_levels(partition.graph, load_arch("array16")).part.run
        if instr.mnemonic == "MATMUL" and instr.oy == 1
    ]
    assert sum(instr.kt for instr in matmuls[:40]) < 40 * UNITS // 16


@pytest.mark.parametrize(("arch", "backends"), [("array8", ("machine", "rtl")), ("array16", ("machine",))])
def test_reference_machine_and_rtl_agree(fitted, arch, backends):
    network, _, samples, series = fitted
    steps = 12
    model = network.to_onnx(steps)
    path = fitted[1].with_name(f"short_{arch}.onnx")
    onnx.save(model, path)
    partition = api.import_model(path, {"u": samples["u"].ravel()[: 100 * steps].reshape(100, steps, 1, 1)})
    result = api.verify(partition, arch, {"u": series[:steps].reshape(steps, 1, 1)}, on=backends)
    assert result.bit_exact, result.differences


def test_a_stream_of_short_runs_gives_what_one_long_run_gives(fitted):
    network, path, samples, series = fitted
    partition = api.import_model(path, samples)
    frame = series[:STEPS].reshape(STEPS, 1, 1)
    expected = api.run_reference(partition, {"u": frame}).raw["y"]
    short = path.with_name("stream.onnx")
    onnx.save(network.to_onnx(STEPS // 10), short)
    # The same ranges, and so the same integers, as of the long run.
    pieces = samples["u"].reshape(-1, STEPS // 10, 1, 1)
    image = api.compile(short, "array8", {"u": pieces}, streaming=True)
    with api.Session("machine", image) as session:
        got = [session.run({"u": piece}).outputs["y"] for piece in frame.reshape(10, -1, 1, 1)]
    scale = partition.graph.tensors["y"].scale
    real = (expected.astype(float) - partition.graph.tensors["y"].zero_point) * scale
    # Without its state a piece would begin with the readout of an empty reservoir.
    assert np.abs(np.concatenate(got) - real)[echo_state.WASHOUT :].max() < 0.15
    assert (
        echo_state.normalised_error(
            real[echo_state.WASHOUT :].ravel(), np.concatenate(got)[echo_state.WASHOUT :].ravel()
        )
        < 0.1
    )


# -- the forms of a body
# ---------------------------------------------------------------------------------------------
def scan_model(nodes, constants, attributes=None, state="h_next"):
    """A Scan with this body over u [7, 1, 3], 6 units."""
    body = helper.make_graph(
        [helper.make_node(op, operands, [result], **options) for op, operands, result, options in nodes],
        "body",
        [
            helper.make_tensor_value_info("h", TensorProto.FLOAT, (1, 6)),
            helper.make_tensor_value_info("u_t", TensorProto.FLOAT, (1, 3)),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 6)) for name in ("h_next", state)],
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "Scan",
                ["h0", "u"],
                ["last", "y"],
                name="reservoir",
                num_scan_inputs=1,
                body=body,
                **(attributes or {}),
            )
        ],
        "scan",
        [helper.make_tensor_value_info("u", TensorProto.FLOAT, (7, 1, 3))],
        [
            helper.make_tensor_value_info("last", TensorProto.FLOAT, (1, 6)),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, (7, 1, 6)),
        ],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


RNG = np.random.default_rng(5)
JOINED = [
    ("Concat", ["u_t", "h"], "both", {"axis": 1}),
    ("Gemm", ["both", "w", "b"], "z", {}),
    ("Tanh", ["z"], "new", {}),
    ("Sub", ["new", "h"], "step", {}),
    ("Mul", ["step", "leak"], "part", {}),
    ("Add", ["h", "part"], "h_next", {}),
]
CONSTANTS = {
    "w": RNG.normal(0, 0.4, (9, 6)),
    "b": RNG.normal(0, 0.2, 6),
    "leak": 0.3,
    "h0": RNG.uniform(-0.5, 0.5, (1, 6)),
}
PLAIN = [
    ("Concat", ["u_t", "h"], "both", {"axis": 1}),
    ("MatMul", ["both", "w"], "z", {}),
    ("Tanh", ["z"], "h_next", {}),
]


@pytest.mark.parametrize(
    ("nodes", "attributes"),
    [
        (JOINED, {}),
        (PLAIN, {}),
        (JOINED, {"scan_input_directions": [1], "scan_output_directions": [1]}),
    ],
)
def test_the_cell_may_be_written_in_any_linear_form(tmp_path, nodes, attributes):
    model = scan_model([*nodes, ("Identity", ["h_next"], "state", {})], CONSTANTS, attributes, state="state")
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    samples = np.random.default_rng(6).normal(0, 1, (20, 7, 1, 3)).astype(np.float32)
    partition = api.import_model(path, {"u": samples})
    assert len(partition.steps) == 1
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {"u": samples[3]}
    )
    outputs = api.run_reference(partition, {"u": samples[3]}).outputs
    for name, value in zip(("last", "y"), expected, strict=True):
        assert outputs[name].shape == value.shape
        np.testing.assert_allclose(outputs[name], value, atol=0.04)
    assert api.verify(partition, "array8", {"u": samples[3]}, on=("machine",)).bit_exact


def test_another_body_runs_on_the_host_behind_a_layer(tmp_path):
    nodes = [("Sigmoid", ["z"], "new", {}) if node[2] == "new" else node for node in JOINED]
    model = scan_model([*nodes, ("Identity", ["h_next"], "state", {})], CONSTANTS, state="state")
    model.graph.initializer.append(
        numpy_helper.from_array(np.eye(3, dtype=np.float32)[::-1].copy(), "mirror")
    )
    model.graph.node.insert(0, helper.make_node("MatMul", ["u", "mirror"], ["mirrored"], name="layer"))
    model.graph.node[1].input[1] = "mirrored"
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    samples = np.random.default_rng(6).normal(0, 1, (20, 7, 1, 3)).astype(np.float32)
    partition = api.import_model(path, {"u": samples})
    assert [(node.name, "0 Tanh" in node.reason) for node in partition.host_nodes] == [("reservoir", True)]
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        ["y"], {"u": samples[3]}
    )[0]
    np.testing.assert_allclose(
        api.run_reference(partition, {"u": samples[3]}).outputs["y"], expected, atol=0.02
    )


def changed(old, new):
    return [new if node[2] == old else node for node in JOINED]


@pytest.mark.parametrize(
    ("nodes", "attributes", "constants", "words"),
    [
        (changed("new", ("Sigmoid", ["z"], "new", {})), {}, {}, "0 Tanh"),
        (changed("h_next", ("Mul", ["h", "part"], "h_next", {})), {}, {}, "not linear"),
        (JOINED, {}, {"leak": np.linspace(0.1, 0.9, 6)}, "one alpha"),
        (JOINED, {"scan_input_directions": [1]}, {}, "run the same way"),
    ],
)
def test_another_body_runs_on_the_host_with_the_reason(tmp_path, nodes, attributes, constants, words):
    model = scan_model(
        [*nodes, ("Identity", ["h_next"], "state", {})], {**CONSTANTS, **constants}, attributes, state="state"
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    samples = np.random.default_rng(6).normal(0, 1, (20, 7, 1, 3)).astype(np.float32)
    partition = api.import_model(path, {"u": samples})
    (hosted,) = [node for node in partition.host_nodes if node.name == "reservoir"]
    assert re.search(words, hosted.reason), hosted.reason

"""Hidden states of 16 bits: nearer to float, bit for bit on every level, chosen by calibration, refused where
they make no sense."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from systolith import api
from systolith.compiler.ops.recurrent import quantised_layer
from systolith.compiler.partition import prepare
from systolith.evidence.fidelity import chosen_hidden, compare
from systolith.spec import cells
from systolith.spec.isa import Cell
from tests.compiler.test_recurrent import float_model
from tests.test_cli import invoke, refused


def slow_rnn(tmp_path):
    """A long chain of slow units: what rounding takes from the state in each step adds up."""
    rng = np.random.default_rng(4)
    units, steps = 12, 60
    rotation = np.linalg.qr(rng.normal(size=(units, units)))[0]
    model, _ = float_model("RNN", units=units, inputs=2, steps=steps, batch=1, outputs=("Y",))
    constants = {
        "W": rng.normal(0, 0.02, (1, units, 2)),
        "R": 0.99 * rotation[None],
        "B": np.zeros((1, 2 * units)),
    }
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name].astype(np.float32), tensor.name))
    path = tmp_path / "slow.onnx"
    onnx.save(model, path)
    return path, rng.normal(0, 1, (24, steps, 1, 2)).astype(np.float32)


def test_the_two_bytes_are_the_state():
    hidden = np.arange(-32768, cells.WIDE_MAX + 1)
    high, low = cells.split(hidden)
    assert (256 * high + low == hidden).all()
    assert high.min() == -128 and high.max() == 127 and low.min() == -128 and low.max() == 127
    assert np.abs(high - hidden / 256).max() <= 0.5


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_it_is_nearer_to_float_and_the_same_on_the_machine(tmp_path, op_type):
    model, samples = float_model(op_type, "bidirectional", steps=12, initial=True)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    parts = [api.import_model(path, {"x": samples}, hidden=bits) for bits in (8, 16)]
    prepared = prepare(path, {"x": samples})
    found = [compare(prepared, partition).recurrent["cell"] for partition in parts]
    print(f"{op_type}: {found[0]:.2f} dB with 8 bits, {found[1]:.2f} dB with 16")
    assert found[1] > found[0] - 0.2
    assert api.verify(parts[1], "array8", {"x": samples[3]}, on=("machine",)).bit_exact


def test_rtl_gives_the_bits_of_the_reference_and_streams(tmp_path):
    model, samples = float_model("LSTM", units=13, steps=4, batch=1, outputs=("Y",))
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    partition = api.import_model(path, {"x": samples[:, :, :1]}, hidden=16)
    result = api.verify(partition, "array8", {"x": samples[3][:, :1]}, on=("machine", "rtl"))
    assert result.bit_exact, result.differences
    image = api.compile(partition, "array8", streaming=True)
    carried = {}
    with api.Session("machine", image) as session:
        for sample in samples[:3, :, :1]:
            (node,) = [node for node in partition.graph.nodes if node.op_type == "LSTM"]
            x = np.clip(
                np.rint(sample / np.float32(partition.graph.tensors["x"].scale))
                + partition.graph.tensors["x"].zero_point,
                -128,
                127,
            ).astype(np.int8)
            expected, carried["state"] = node.op.step(x, carried.get("state"))
            np.testing.assert_array_equal(session.run({"x": sample}).raw["Y"], expected)


def test_auto_takes_16_bits_where_they_are_worth_it(tmp_path, capsys):
    path, samples = slow_rnn(tmp_path)
    data = {"x": samples}
    # With 8 bits the result is so far from float that a warning says so.
    with pytest.warns(api.FarFromFloatWarning, match="'Y' is .* dB from float"):
        parts = [api.import_model(path, data, hidden=bits, float_below=0) for bits in (8, 16)]
    prepared = prepare(path, data)
    narrow, wide = (compare(prepared, partition).lowest for partition in parts)
    found = wide - narrow
    print(f"slow RNN: {found:.1f} dB gained")
    assert found > 1
    said = []
    assert chosen_hidden(prepared, None, said.append) == 16
    auto = api.import_model(path, data, hidden="auto")
    assert [node.op.wide for node in auto.graph.nodes if node.op_type == "RNN"] == [True]
    assert "16 bits" in said[0]
    model, samples = float_model("RNN", outputs=("Y",))
    onnx.save(model, path)
    np.savez(tmp_path / "c.npz", x=samples)
    status, _, told = invoke(
        capsys, "explain", path, "--arch", "tiny", "--calib", tmp_path / "c.npz", "--hidden", "auto"
    )
    assert status == 0 and "hidden states have 8 bits" in told


def test_an_accumulator_that_could_overflow_takes_coarser_weights():
    parts = (np.full((1, 1, 300), 0.1), np.full((1, 1, 1), 0.1), np.zeros((1, 1)))
    options = {"x_scale": 1 / 128, "x_zero": 0, "reverse": False, "batch": 1}
    narrow = quantised_layer("cell", Cell.RNN, parts, **options)
    wide = quantised_layer("cell", Cell.RNN, parts, **options, wide=True)
    assert not narrow.wide and wide.wide
    largest = [int(np.abs(layer.weights.astype(np.int64)).max()) for layer in (narrow, wide)]
    assert largest[0] == 127 > largest[1]
    # The wide sum fits, whatever the operands are.
    assert 256 * 256 * 300 * largest[1] < 1 << 31


def test_it_is_refused_without_a_recurrent_layer_and_without_a_float_model(tmp_path, capsys):
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 4))
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 3))
    weights = numpy_helper.from_array(np.random.default_rng(1).normal(0, 1, (4, 3)).astype(np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "dense", [x], [y], [weights])
    path = tmp_path / "dense.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(2).normal(0, 1, (8, 1, 4)).astype(np.float32))
    common = ("explain", path, "--arch", "tiny", "--hidden")
    assert "no recurrent layer" in refused(capsys, *common, "16", "--calib", tmp_path / "c.npz")
    assert "calibration data" in refused(capsys, *common, "auto")
    assert "'12'" in refused(capsys, *common, "12")

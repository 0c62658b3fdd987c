"""Constants behind DequantizeLinear, zero points of weights, and Clips on integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.passes.dress import plain, weights_only
from systolith.compiler.passes.zero_points import symmetric_weights
from tests.compiler.dressed import Dressed, kinds, run


def weights(m: Dressed, ints: np.ndarray, axis: int | None = None, zero: int | np.ndarray = 0) -> str:
    """Dequantised integers, per tensor or along an axis."""
    count = () if axis is None else ints.shape[axis]
    scale = m.const(m.rng.uniform(0.003, 0.02, count), np.float32)
    zeros = m.const(np.broadcast_to(zero, count).copy(), ints.dtype.type)
    return m.node("DequantizeLinear", m.const(ints), scale, zeros, axis=axis or 0)


def quantised_conv(m: Dressed, w: str, channels: int = 4, **attributes: object) -> str:
    x = m.qdq(m.input(m.normal(1, channels, 6, 6)), 0.03, -5)
    return m.qdq(m.node("Conv", x, w, pads=[1, 1, 1, 1], **attributes), 0.1, 3)


#: Shape of the integers, axis of the scales, and the movements to [8, 4, 3, 3].
MOVED = {
    "transpose": ((3, 3, 4, 8), 3, [("Transpose", {"perm": [3, 2, 0, 1]})]),
    "reshape": ((8, 36), 0, [("Reshape", [8, 4, 3, -1])]),
    "merge": ((8, 2, 2, 9), 0, [("Reshape", [8, 4, 3, 3])]),
    "split": ((2, 4, 4, 9), -1, [("Reshape", [8, 4, 3, 3])]),
    "both": ((9, 4, 8), 2, [("Transpose", {"perm": [2, 1, 0]}), ("Reshape", [0, 0, 3, 3])]),
    "unsqueeze": ((8, 4, 9), 0, [("Unsqueeze", [0]), ("Reshape", [8, 4, 3, 3])]),
    "squeeze": ((1, 8, 4, 3, 3), 1, [("Squeeze", [0]), ("Identity", None)]),
    "flatten": ((8, 4, 3, 3), 0, [("Flatten", {"axis": 1}), ("Reshape", [8, 4, 3, 3])]),
}


@pytest.mark.parametrize("name", MOVED)
def test_movements_of_weights_are_done_on_their_integers(name: str) -> None:
    shape, axis, moves = MOVED[name]
    m = Dressed(0)
    # 'split' takes the channels off their axis, so its weights have one scale.
    w = weights(m, m.ints(np.int8, *shape), None if axis < 0 else axis)
    for op, how in moves:
        if isinstance(how, list):
            w = m.node(op, w, m.const(how, np.int64))
        else:
            w = m.node(op, w, **(how or {}))
    made = m.check(quantised_conv(m, w))
    assert not set(kinds(made)) & {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
    maker = made.producer[made.by_name[m.nodes[-3].name].inputs[1]]
    assert maker.op_type == "DequantizeLinear" and made.constants[maker.inputs[0]].shape == (8, 4, 3, 3)
    assert axis < 0 or maker.attrs["axis"] == 0


def test_depthwise_weights_get_one_scale_per_channel_of_two_axes() -> None:
    # As tf2onnx writes them: [h, w, channels, multiplier], scales along the channels.
    m = Dressed(1)
    w = weights(m, m.ints(np.int8, 3, 3, 4, 2), 2)
    w = m.node("Transpose", m.node("Reshape", w, m.const([3, 3, 1, 8], np.int64)), perm=[3, 2, 0, 1])
    made = m.check(quantised_conv(m, w, group=4))
    maker = made.producer[made.by_name[m.nodes[-3].name].inputs[1]]
    scale = made.constants[maker.inputs[1]]
    np.testing.assert_array_equal(scale[::2], scale[1::2])
    assert scale.size == 8 and len(set(scale.tolist())) == 4


def test_scales_along_two_axes_stay_behind_a_movement() -> None:
    m = Dressed(2)
    w = m.node("Reshape", weights(m, m.ints(np.int8, 8, 6, 6), 1), m.const([8, 4, 3, 3], np.int64))
    assert "Reshape" in kinds(m.check(quantised_conv(m, w)))


def test_a_movement_between_quantising_and_dequantising_a_constant() -> None:
    m = Dressed(3)
    parameters = m.const(m.rng.uniform(0.01, 0.02, 8), np.float32), m.const(np.zeros(8), np.int8)
    q = m.node("QuantizeLinear", m.const(m.normal(4, 8, 3, 3)), *parameters, axis=1)
    q = m.node("Clip", q, m.const(-8, np.int8), m.const(7, np.int8))
    w = m.node("DequantizeLinear", m.node("Transpose", q, perm=[1, 0, 2, 3]), *parameters, axis=0)
    made = m.check(quantised_conv(m, w))
    maker = made.producer[made.by_name[m.nodes[-3].name].inputs[1]]
    assert np.abs(made.constants[maker.inputs[0]]).max() == 8


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("axis", [None, 0])
def test_weights_of_four_bits_are_int8(kind: int, axis: int | None) -> None:
    m = Dressed(4)
    low = -8 if kind == TensorProto.INT4 else 0
    zero = 0 if kind == TensorProto.INT4 else 9
    count = () if axis is None else (8,)
    codes = m.rng.integers(low, low + 16, (8, 4, 3, 3))
    for name, array in (("w4", codes), ("z4", np.full(count, zero))):
        m.constants.append(helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist()))
    scale = m.const(m.rng.uniform(0.02, 0.1, count), np.float32)
    w = m.node("DequantizeLinear", "w4", scale, "z4", axis=axis or 0)
    made = m.check(quantised_conv(m, w))
    maker = made.producer[made.by_name[m.nodes[-3].name].inputs[1]]
    ints = made.constants[maker.inputs[0]]
    assert ints.dtype == np.int8
    np.testing.assert_array_equal(ints, codes - zero)


@pytest.mark.parametrize("quantised", [False, True])
def test_weights_with_a_scale_per_block_are_float(quantised: bool) -> None:
    m = Dressed(5)
    ints, scale = m.const(m.ints(np.int8, 20, 6)), m.const(m.rng.uniform(0.01, 0.02, (5, 6)), np.float32)
    w = m.node("DequantizeLinear", ints, scale, m.const(m.ints(np.int8, 5, 6)), axis=0, block_size=4)
    x = m.input(m.normal(3, 20))
    y = m.node("MatMul", m.qdq(x, 0.02, 0) if quantised else x, w)
    made = m.check(m.qdq(y, 0.1, 0) if quantised else y)
    assert made.constants[made.by_name[f"node_{y}"].inputs[1]].dtype == np.float32


def test_weights_alone_make_a_float_model() -> None:
    m = Dressed(6)
    table = m.const(m.ints(np.uint8, 10, 8))
    parameters = m.const(0.02, np.float32), m.const(120, np.uint8)
    rows = m.node("Gather", table, m.input(m.rng.integers(0, 10, 5)))
    y = m.node("DequantizeLinear", rows, *parameters)
    w = m.node("Transpose", weights(m, m.ints(np.int8, 6, 8), 0), perm=[1, 0])
    y = m.node("MatMul", y, w)
    assert weights_only(m.typed(y))
    assert kinds(m.check(y)) == ["Gather", "MatMul"]


def test_a_quantised_activation_makes_a_quantised_model() -> None:
    m = Dressed(7)
    y = quantised_conv(m, weights(m, m.ints(np.int8, 8, 4, 3, 3), 0))
    model = m.typed(y)
    assert not weights_only(model) and not weights_only(plain(model))
    m = Dressed(7)
    y = m.node("Relu", m.input(m.normal(3)))
    model = m.typed(y)
    assert weights_only(model) and plain(model) is model


# Zero points.


@pytest.mark.parametrize(
    ("kind", "zero"), [(np.uint8, 121), (np.uint8, 0), (np.uint8, 255), (np.int8, -128), (np.int8, 3)]
)
@pytest.mark.parametrize("operator", ["conv", "grouped", "depthwise", "transposed", "gemm", "matmul"])
def test_zero_points_of_weights_leave_the_sums_as_they_are(operator: str, kind: type, zero: int) -> None:
    for channels in (False, True):
        m = Dressed(8)
        spread = np.where(np.arange(8) % 2, zero, 100) if channels else zero
        if operator in ("gemm", "matmul"):
            x = m.qdq(m.input(m.normal(3, 20)), 0.03, -5)
            if operator == "gemm":
                w = weights(m, m.ints(kind, 8, 20), 0 if channels else None, spread)
                y = m.node("Gemm", x, w, m.const(m.normal(8)), transB=1)
            else:
                w = weights(m, m.ints(kind, 20, 8), 1 if channels else None, spread)
                y = m.node("MatMul", x, w)
            work = y
            y = m.qdq(y, 0.1, 3)
        else:
            group = {"grouped": 2, "depthwise": 4, "transposed": 2}.get(operator, 1)
            x = m.qdq(m.input(m.normal(1, 4, 6, 6)), 0.03, -5)
            if operator == "transposed":
                w = weights(m, m.ints(kind, 4, 4, 3, 3), None, zero)
                y = m.node("ConvTranspose", x, w, group=group)
            else:
                w = weights(m, m.ints(kind, 8, 4 // group, 3, 3), 0 if channels else None, spread)
                y = m.node("Conv", x, w, group=group)
            work = y
            y = m.qdq(y, 0.1, 3)
        made = m.check(y, within=0.1001)
        maker = made.producer[made.by_name[f"node_{work}"].inputs[1]]
        assert made.constants[maker.inputs[0]].dtype == np.int8
        assert not made.constants[maker.inputs[2]].any()
        # Every sum is of the same integers: without the last rounding nothing differs but float32's.
        exact = run(_behind(m, work), m.feeds)[0], run(_behind(m, work, plain=True), m.feeds)[0]
        np.testing.assert_allclose(exact[0], exact[1], atol=2e-4)


def _behind(m: Dressed, name: str, plain: bool = False) -> onnx.ModelProto:
    model = m.typed(name)
    return (symmetric_weights(model) if plain else model).to_proto()


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize("flipped", [0, 1])
def test_weights_on_the_left_too(operator: str, flipped: int) -> None:
    m = Dressed(10)
    if operator == "MatMul":
        x = m.qdq(m.input(m.normal(2, 20, 3)), 0.03, -5)
        y = m.node("MatMul", weights(m, m.ints(np.uint8, 8, 20), None, 90), x)
    else:
        x = m.qdq(m.input(m.normal(*((3, 20) if flipped else (20, 3)))), 0.03, -5)
        w = weights(m, m.ints(np.uint8, *((20, 8) if flipped else (8, 20))), None, 90)
        y = m.node("Gemm", w, x, transA=flipped, transB=flipped)
    made = m.check(m.qdq(y, 0.1, 3), within=0.1001)
    maker = made.producer[made.by_name[f"node_{y}"].inputs[0]]
    assert made.constants[maker.inputs[0]].dtype == np.int8 and "Gather" in kinds(made)


def test_a_weight_whose_activation_is_not_quantised_stays() -> None:
    m = Dressed(11)
    y = m.node(
        "Conv", m.node("Relu", m.input(m.normal(1, 4, 5, 5))), weights(m, m.ints(np.uint8, 8, 4, 3, 3))
    )
    made = m.check(m.qdq(y, 0.1, 3))
    assert "Gather" not in kinds(made)


def test_weights_that_fit_take_the_activation_once() -> None:
    m = Dressed(9)
    ints = m.rng.integers(20, 200, (8, 4, 3, 3)).astype(np.uint8)
    made = m.check(quantised_conv(m, weights(m, ints, None, 100)))
    assert "Gather" not in kinds(made)
    m = Dressed(9)
    made = m.check(quantised_conv(m, weights(m, m.ints(np.uint8, 8, 4, 3, 3), None, 128)))
    assert made.constants[m.nodes[0].input[0]].dtype == np.uint8


# Clips.


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("ends", [(True, True), (True, False), (False, True)])
def test_a_clip_on_integers_stands_before_they_are_quantised(kind: type, ends: tuple[bool, bool]) -> None:
    for seed in range(8):
        m = Dressed(seed)
        w = weights(m, m.ints(np.int8, 8, 4, 3, 3), 0)
        zero = 0 if kind is np.int8 else 8
        parameters = m.const(m.rng.uniform(0.05, 0.4), np.float32), m.const(zero, kind)
        x = m.qdq(m.input(m.normal(1, 4, 6, 6)), 0.03, -5)
        q = m.node("QuantizeLinear", m.node("Conv", x, w), *parameters)
        limits = [
            m.const(zero + end, kind) if given else "" for end, given in zip((-8, 7), ends, strict=True)
        ]
        y = m.node("DequantizeLinear", m.node("Clip", q, *limits), *parameters)
        made = m.check(y)
        assert kinds(made)[-4:] == ["Conv", "Clip", "QuantizeLinear", "DequantizeLinear"]


def test_a_clip_stays_behind_an_input_and_where_something_reads_the_integers() -> None:
    m = Dressed(0)
    parameters = m.const(0.1, np.float32), m.const(0, np.int8)
    q = m.node("QuantizeLinear", m.input(m.normal(5)), *parameters)
    clipped = m.node("Clip", q, m.const(-8, np.int8), m.const(7, np.int8))
    made = m.check(m.node("DequantizeLinear", clipped, *parameters))
    assert kinds(made) == ["QuantizeLinear", "Clip", "DequantizeLinear"]
    m = Dressed(0)
    parameters = m.const(0.1, np.float32), m.const(0, np.int8)
    q = m.node("QuantizeLinear", m.node("Abs", m.input(m.normal(5))), *parameters)
    clipped = m.node("Clip", q, m.const(-8, np.int8), m.const(7, np.int8))
    ends = [m.node("DequantizeLinear", name, *parameters) for name in (q, clipped)]
    made = m.check(*ends)
    assert made.producer[clipped].op_type == "Clip"


def test_constant_nodes_are_constants() -> None:
    m = Dressed(0)
    tensor = numpy_helper.from_array(m.normal(3))
    y = m.node("Add", m.input(m.normal(3)), m.node("Constant", value=tensor))
    y = m.node("Mul", y, m.node("Constant", value_float=2.0))
    y = m.node("Reshape", y, m.node("Constant", value_ints=[3, 1]))
    out = m.node("Constant", value=tensor)
    made = m.check(y, out)
    assert kinds(made) == ["Add", "Mul", "Reshape", "Constant"]

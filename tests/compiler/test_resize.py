"""Resize, Upsample, DepthToSpace and SpaceToDepth: against ONNX Runtime and on the machine."""

import numpy as np
import pytest

from systolith.compiler.ops.interpolation import even_kernel, integers
from systolith.compiler.ops.values import Const, FloatInput
from systolith.compiler.partition import import_model
from systolith.reference.conv_transpose import ConvTranspose
from systolith.reference.select import Select
from tests.compiler.qdq import QdqModel
from tests.compiler.test_select import converted, i64, run

COORDINATES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]


def resize(scales, shape=(1, 3, 8, 6), seed=1, opset=19, **attributes):
    m = QdqModel(seed, opset=opset)
    x = m.input(*shape, scale=0.05)
    empty = m.const(np.zeros(0, np.float32))
    return m, m.node("Resize", x, empty, m.const(np.array(scales, np.float32)), **attributes)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 3), (1, 1, 0.5, 1.5)])
def test_nearest(coordinates, rounding, scales) -> None:
    m, y = resize(scales, mode="nearest", nearest_mode=rounding, coordinate_transformation_mode=coordinates)
    graph = run(m, y, 1)
    assert all(isinstance(node.op, Select) or node.op.as_table is not None for node in graph.nodes)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(
    "scales", [(1, 1, 2, 2), (1, 1, 4, 3), (1, 1, 0.5, 0.5), (1, 1, 1.5, 2), (1, 1, 2, 1)]
)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_weighted(coordinates, scales, mode) -> None:
    m, y = resize(scales, mode=mode, coordinate_transformation_mode=coordinates)
    run(m, y, 1 if mode == "linear" else 2)


def test_twice_linear_is_one_transposed_convolution() -> None:
    m, y = resize((1, 1, 2, 2), mode="linear")
    graph = run(m, y, 1)
    assert sum(isinstance(node.op, ConvTranspose) for node in graph.nodes) == 1


def test_sizes_and_axes() -> None:
    m = QdqModel(1, opset=19)
    x = m.input(1, 3, 8, 6, scale=0.05)
    y = m.node("Resize", x, "", "", m.const(i64(16, 7)), mode="linear", axes=[2, 3])
    run(m, y, 2)


def test_antialias() -> None:
    m, y = resize((1, 1, 0.5, 0.5), mode="linear", antialias=1)
    run(m, y, 1)


def test_resize_of_opset_10() -> None:
    m = QdqModel(1, opset=10)
    x = m.input(1, 3, 8, 6, scale=0.05)
    y = m.node("Resize", x, m.const(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    graph = import_model(m.build(m.quantise(y, 0.05)))
    assert graph.tensors[graph.outputs[0]].shape == (1, 3, 16, 12)


@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset) -> None:
    x, scales = FloatInput("x", (1, 3, 8, 6)), [1.0, 1.0, 2.0, 3.0]
    given = [x] if opset == 7 else [x, Const(np.array(scales, np.float32))]
    attrs = {"mode": "nearest"} | ({"scales": scales} if opset == 7 else {})
    (value,) = converted("Upsample", *given, attrs, opset=opset)
    assert value.shape == (1, 3, 16, 18)


def test_one_spatial_axis() -> None:
    m, y = resize((1, 1, 2), (1, 4, 9), mode="linear")
    run(m, y, 1)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("arch", ["tiny", "array8"])
def test_depth_to_space(mode, arch) -> None:
    m = QdqModel(1)
    run(m, m.node("DepthToSpace", m.input(2, 12, 3, 5), blocksize=2, mode=mode), 1, arch)


def test_space_to_depth() -> None:
    m = QdqModel(1)
    run(m, m.node("SpaceToDepth", m.input(2, 3, 4, 6), blocksize=2), 1)


def test_a_kernel_is_found_only_where_it_moves_evenly() -> None:
    even = np.repeat(np.eye(5), 2, axis=1)
    assert even_kernel(even).up == 2
    even[0, 3] = 0.5
    assert even_kernel(even) is None


def test_integers_are_exact_where_they_can_be() -> None:
    ints, scale = integers(np.array([9, 3, 3, 1]) / 16)
    assert np.array_equal(ints * scale * 16, [9, 3, 3, 1])

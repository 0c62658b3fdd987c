"""What one run over the samples tells of tensors: ranges, types and cell states."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.errors import QuantiseError
from systolith.compiler.base.formats import Format
from systolith.compiler.loading import load
from systolith.compiler.quantise import observe


def model(*outputs, width=1000):
    """Twice the input, and its square, as functions that can be followed in NumPy."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"], "twice"),
        helper.make_node("Mul", ["x", "x"], ["square"], "square"),
    ]
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("x", *outputs)]
    graph = helper.make_graph(nodes, "g", kinds[:1], kinds[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return load(proto).model


def seen(data, **options):
    """What is observed of samples [count, 1, width]."""
    return observe(
        model("twice", "square", width=data.shape[-1]), ({"x": sample} for sample in data), **options
    )


def ends(chosen):
    """The least and the largest number of a format."""
    return (-128 - chosen.zero) * chosen.scale, (127 - chosen.zero) * chosen.scale


def test_minmax_is_that_of_all_samples():
    data = np.random.default_rng(0).normal(1, 2, (9, 1, 1000)).astype(np.float32)
    observed = seen(data)
    for name, values in (("x", data), ("twice", data + data), ("square", data * data)):
        low, high = min(values.min(), 0), max(values.max(), 0)
        assert observed.formats[name] == Format.covering(float(low), float(high))
    # Zero is always among the codes, and a result that is never negative uses all of them.
    assert observed.formats["square"].zero == -128


@pytest.mark.parametrize("percentile", [99.0, 99.9, 90.0])
def test_a_percentile_is_that_of_numpy(percentile):
    """Samples grow, so that the histogram's range doubles many times on the way."""
    rng = np.random.default_rng(1)
    data = (rng.normal(0.3, 1, (12, 1, 1000)) * 2.0 ** np.arange(-6, 6)[:, None, None]).astype(np.float32)
    observed = seen(data, ranges="percentile", percentile=percentile)
    rest = (100 - percentile) / 2
    for name, values in (("x", data), ("twice", data + data), ("square", data * data)):
        # Two bins of the histogram, whose range is at most four times the largest magnitude, and half a code.
        near = 4 * np.abs(values).max() / 2048 + observed.formats[name].scale
        # Between two values of the samples, the percentile may be any number.
        for found, share in zip(ends(observed.formats[name]), (rest, 100 - rest), strict=True):
            lower, higher = (np.percentile(values, share, method=method) for method in ("lower", "higher"))
            if share < 50:
                lower, higher = min(lower, 0), min(higher, 0)
            assert lower - near <= found <= higher + near


def test_a_percentile_of_100_is_the_whole_range():
    data = np.random.default_rng(2).normal(0, 1, (5, 1, 1000)).astype(np.float32)
    assert seen(data, ranges="percentile", percentile=100.0).formats == seen(data).formats


def test_a_percentile_never_passes_the_values():
    data = np.random.default_rng(3).uniform(0, 1, (4, 1, 1000)).astype(np.float32)
    low, high = ends(seen(data, ranges="percentile", percentile=99.9).formats["x"])
    assert low == 0 and high <= data.max() * 1.0001


def loss(values, chosen):
    """Energy that rounding and saturation take."""
    codes = np.clip(np.rint(values / chosen.scale) + chosen.zero, -128, 127) - chosen.zero
    return float(np.square(values - codes * chosen.scale).sum())


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: rng.normal(0, 1, shape),
        lambda rng, shape: rng.laplace(0, 1, shape),
        lambda rng, shape: rng.standard_t(3, shape),
        lambda rng, shape: np.abs(rng.laplace(0, 1, shape)),
    ],
    ids=["normal", "laplace", "student", "positive"],
)
def test_mse_loses_least(draw):
    data = draw(np.random.default_rng(4), (20, 1, 2000)).astype(np.float32)
    chosen, whole = seen(data, ranges="mse").formats["x"], seen(data).formats["x"]
    low, high = min(data.min(), 0), max(data.max(), 0)
    tried = [Format.covering(low * share, high * share) for share in np.linspace(1, 0.3, 29)]
    best = min(loss(data, one) for one in tried)
    assert loss(data, chosen) <= 1.05 * best
    assert loss(data, chosen) <= loss(data, whole)


def test_mse_keeps_a_uniform_range_and_gives_up_an_outlier():
    rng = np.random.default_rng(5)
    uniform = rng.uniform(-1, 1, (8, 1, 2000)).astype(np.float32)
    kept = seen(uniform, ranges="mse").formats["x"]
    assert kept.scale == pytest.approx(seen(uniform).formats["x"].scale, rel=0.03)
    outlier = uniform.copy()
    # One value at three times the rest: what it loses is less than what all others gain.
    outlier[0, 0, 0] = 1.5
    assert seen(outlier, ranges="mse").formats["x"].scale <= seen(outlier).formats["x"].scale


def test_constant_and_infinite_values_do_no_harm():
    zeros = np.zeros((2, 1, 10), np.float32)
    for ranges in ("minmax", "percentile", "mse"):
        assert seen(zeros, ranges=ranges, percentile=99.0).formats["x"] == Format(1.0, 0)
        data = np.full((2, 1, 10), 3, np.float32)
        data[0, 0, 0] = 2e19
        # The square of the first is infinite, and no range has an end there.
        low, high = ends(seen(data, ranges=ranges, percentile=50.0 + 49.9).formats["square"])
        assert low == 0 and high == pytest.approx(9, rel=0.01)


def test_order_of_samples_does_not_matter():
    rng = np.random.default_rng(6)
    data = (rng.normal(0, 1, (6, 1, 500)) * 2.0 ** np.arange(6)[:, None, None]).astype(np.float32)
    for name in ("x", "square"):
        one, other = (
            ends(seen(order, ranges="percentile", percentile=99).formats[name])
            for order in (data, data[::-1])
        )
        np.testing.assert_allclose(one, other, rtol=0.01, atol=0.01)


def test_types_and_shapes_are_those_of_the_run():
    nodes = [
        helper.make_node("ArgMax", ["x"], ["best"], "best", axis=1),
        helper.make_node("Greater", ["x", "zero"], ["positive"], "positive"),
        helper.make_node("NonZero", ["x"], ["places"], "places"),
        helper.make_node("Split", ["x"], ["left", "right"], "split", axis=1, num_outputs=2),
    ]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])]
    kinds = {"best": 7, "positive": 9, "places": 7, "left": 1, "right": 1}
    values += [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    zero = numpy_helper.from_array(np.float32(0), "zero")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [zero])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    observed = observe(load(proto).model, [{"x": np.arange(1, 9, dtype=np.float32)[None]}])
    found = {name: (known.dtype.name, known.extents) for name, known in observed.types.items()}
    assert found == {
        "x": ("float32", (1, 8)),
        "best": ("int64", (1, 1)),
        "positive": ("bool", (1, 8)),
        "places": ("int64", (2, 8)),
        "left": ("float32", (1, 4)),
        "right": ("float32", (1, 4)),
    }
    assert set(observed.formats) == {"x", "left", "right"}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_the_largest_cell_state_is_that_of_every_step(direction):
    """The cell state is no result of the node: ONNX Runtime tells that of each step one by one."""
    rng, units = np.random.default_rng(7), 4
    count = 2 if direction == "bidirectional" else 1
    constants = {
        "W": rng.normal(0, 1, (count, 4 * units, 3)),
        "R": rng.normal(0, 0.5, (count, 4 * units, units)),
        "B": rng.normal(0, 0.5, (count, 8 * units)),
    }
    node = helper.make_node(
        "LSTM", ["x", *constants], ["Y", "", "Y_c"], "cell", hidden_size=units, direction=direction
    )

    def built(steps):
        ins = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, 1, 3])]
        outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Y", "Y_c")]
        held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
        graph = helper.make_graph([node], "g", ins, outs, held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    data = rng.normal(0, 1, (5, 6, 1, 3)).astype(np.float32)
    observed = observe(load(built(6)).model, ({"x": sample} for sample in data))
    largest = np.zeros(count)
    for steps in range(1, 7):
        session = onnxruntime.InferenceSession(built(steps).SerializeToString())
        for sample in data:
            # Forward cells begin at the first step, backward ones at the last.
            for at, backward in enumerate(
                {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[direction]
            ):
                part = sample[-steps:] if backward else sample[:steps]
                state = session.run(["Y_c"], {"x": np.ascontiguousarray(part)})[0][at]
                largest[at] = max(largest[at], np.abs(state).max())
    np.testing.assert_allclose(observed.cells["cell"], largest, rtol=1e-4)


def test_only_what_is_of_interest_is_observed():
    data = np.random.default_rng(8).normal(0, 1, (2, 1, 10)).astype(np.float32)
    observed = seen(data, only={"square"})
    assert set(observed.types) == {"x", "square"}


def test_a_model_that_cannot_run_is_told_without_blame():
    data = np.zeros((1, 1, 7), np.float32)
    with pytest.raises(QuantiseError, match="ONNX Runtime could not run the model"):
        observe(model("twice", "square", width=8), [{"x": data[0]}])

"""Linear models of ai.onnx.ml, and lists of maps: as operators of ONNX's own they give what ONNX Runtime
gives for the originals."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.model import Model, TensorType
from systolith.compiler.passes.linear_ml import expand_linear_ml
from systolith.compiler.passes.maps import maps_to_arrays

ML = "ai.onnx.ml"
INTEGERS = [3, 5, 8, 13]
TEXTS = ["cat", "dog", "fox", "owl"]


def proto_of(nodes, features, outputs, constants=(), *, batch="N", element=TensorProto.FLOAT, opset=17):
    """A model of one input x; outputs without a type, as exporters leave those of ai.onnx.ml."""
    shape = [features] if batch is None else [batch, features]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(constants).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ML, 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node_of(op_type, inputs=("x",), outputs=("y",), **attributes):
    return helper.make_node(op_type, inputs, outputs, name=f"the_{op_type}", domain=ML, **attributes)


def samples(shape, seed=0, element=TensorProto.FLOAT):
    values = np.random.default_rng(seed).normal(0, 3, shape)
    return values.astype(helper.tensor_dtype_to_np_dtype(element))


def run(proto, x):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def assert_same(proto, x, *, without=True, tolerance=1e-5):
    """The expanded model gives the same; returns it."""
    model, origins = expand_linear_ml(Model.from_proto(proto))
    assert set(origins) == {node.name for node in model.nodes} - {node.name for node in proto.graph.node}
    assert set(origins.values()) <= {node.name for node in proto.graph.node}
    assert without == (ML not in {node.domain for node in model.nodes})
    for got, expected in zip(run(model.to_proto(), x), run(proto, x), strict=True):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=tolerance)
        else:
            assert got.tolist() == expected.tolist()
    for name, known in model.types.items():
        assert known.element or name in model.outputs or name in model.odd, name
    return model


def assert_stays(proto):
    model = Model.from_proto(proto)
    assert expand_linear_ml(model) == (model, {})


def classifier(rows, classes, features=6, seed=0, labels=None, **attributes):
    rng = np.random.default_rng(seed)
    key = "classlabels_strings" if labels else "classlabels_ints"
    return node_of(
        "LinearClassifier",
        outputs=("label", "scores"),
        coefficients=rng.normal(0, 0.3, rows * features).tolist(),
        intercepts=rng.normal(0, 0.3, rows).tolist(),
        **{key: (labels or INTEGERS)[:classes]},
        **attributes,
    )


@pytest.mark.parametrize("labels", [None, TEXTS])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize(("rows", "classes"), [(4, 4), (2, 2), (1, 2)])
def test_classifiers(rows, classes, transform, labels):
    for seed in range(5):
        node = classifier(rows, classes, seed=seed, labels=labels, post_transform=transform)
        proto = proto_of([node], 6, ["label", "scores"])
        if rows == 1 and transform != "LOGISTIC":
            assert_stays(proto)
        else:
            model = assert_same(proto, samples((64, 6), seed))
            assert model.nodes[0].op_type == "Gemm"


def test_a_label_alone_and_scores_alone():
    node = classifier(4, 4, post_transform="SOFTMAX")
    for name, kept, absent in (("label", "ArgMax", "Softmax"), ("scores", "Softmax", "ArgMax")):
        model = assert_same(proto_of([node], 6, [name]), samples((9, 6)))
        kinds = {node.op_type for node in model.without_dead_nodes().nodes}
        assert kept in kinds and absent not in kinds


@pytest.mark.parametrize(
    "element", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32]
)
@pytest.mark.parametrize("batch", ["N", None])
def test_every_type_of_features_and_a_single_row(element, batch):
    x = samples((6,) if batch is None else (7, 6), 1, element)
    proto = proto_of([classifier(4, 4)], 6, ["label", "scores"], batch=batch, element=element)
    assert_same(proto, x)
    regressor = node_of("LinearRegressor", coefficients=[0.5, -1.0, 0.25, 2.0, 1.0, 0.1], intercepts=[0.3])
    if element == TensorProto.FLOAT:
        assert_same(proto_of([regressor], 6, ["y"], batch=batch), x)


def test_a_score_of_exactly_zero_stays_with_softmax_zero():
    node = node_of(
        "LinearClassifier",
        outputs=("label", "scores"),
        coefficients=[0.0, 0.0, 1.0, 2.0, 0.5, -1.0],
        intercepts=[0.0, 0.1, 0.2],
        classlabels_ints=[0, 1, 2],
        post_transform="SOFTMAX_ZERO",
    )
    assert_stays(proto_of([node], 2, ["label", "scores"]))


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("offsets", [True, False])
def test_regressors(targets, offsets):
    rng = np.random.default_rng(targets)
    attributes = {"intercepts": rng.normal(0, 1, targets).tolist()} if offsets else {}
    node = node_of(
        "LinearRegressor", coefficients=rng.normal(0, 1, targets * 5).tolist(), targets=targets, **attributes
    )
    assert_same(proto_of([node], 5, ["y"]), samples((11, 5)))


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "PROBIT"])
def test_transformed_regressions_stay(transform):
    node = node_of("LinearRegressor", coefficients=[1.0, 2.0], intercepts=[0.5], post_transform=transform)
    assert_stays(proto_of([node], 2, ["y"]))


@pytest.mark.parametrize("supports", [0, 4])
def test_support_vectors_of_a_linear_kernel(supports):
    rng = np.random.default_rng(supports)
    attributes = {
        "kernel_type": "LINEAR",
        "kernel_params": [0.1, 0.2, 3.0],
        "coefficients": rng.normal(0, 1, supports or 5).tolist(),
        "rho": [0.75],
        "n_supports": supports,
    }
    if supports:
        attributes["support_vectors"] = rng.normal(0, 1, supports * 5).tolist()
    assert_same(proto_of([node_of("SVMRegressor", **attributes)], 5, ["y"]), samples((11, 5)))
    if supports:
        assert_stays(proto_of([node_of("SVMRegressor", **{**attributes, "kernel_type": "RBF"})], 5, ["y"]))
        assert_stays(proto_of([node_of("SVMRegressor", **attributes, one_class=1)], 5, ["y"]))


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64])
@pytest.mark.parametrize(
    ("offset", "scale"), [([1.5], [2.0]), ([1.0, -2.0, 0.5], [2.0, 4.0, 0.1]), ([0.0] * 3, [1.0, 2.0, 3.0])]
)
def test_scalers(offset, scale, element):
    proto = proto_of([node_of("Scaler", offset=offset, scale=scale)], 3, ["y"], element=element)
    assert_same(proto, samples((8, 3), 2, element))


@pytest.mark.parametrize("threshold", [{}, {"threshold": 0.5}])
def test_binarizers(threshold):
    x = np.array([[0.0, 0.5, 0.6], [-1.0, 1e-7, 0.4999]], np.float32)
    assert_same(proto_of([node_of("Binarizer", **threshold)], 3, ["y"]), x)


@pytest.mark.parametrize("indices", [[2, 0], [[2]], [[1, 1, 2]]])
@pytest.mark.parametrize("batch", ["N", None])
def test_chosen_features(indices, batch):
    node = node_of("ArrayFeatureExtractor", ("x", "i"))
    proto = proto_of([node], 3, ["y"], {"i": np.array(indices, np.int64)}, batch=batch)
    assert_same(proto, samples((3,) if batch is None else (5, 3)))


def test_labels_that_an_index_chooses_stay():
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], name="best", axis=1, keepdims=0),
        node_of("ArrayFeatureExtractor", ("labels", "i")),
    ]
    assert_stays(proto_of(nodes, 3, ["y"], {"labels": np.array([4, 5, 6], np.int64)}))


def test_features_of_several_tensors():
    nodes = [
        node_of("Scaler", outputs=("a",), offset=[0.5], scale=[2.0]),
        node_of("FeatureVectorizer", ("x", "a"), inputdimensions=[3, 3]),
    ]
    assert_same(proto_of(nodes, 3, ["y"]), samples((4, 3)))
    nodes[1] = node_of("FeatureVectorizer", ("x", "a"), inputdimensions=[3, 2])
    assert_same(proto_of(nodes, 3, ["y"]), samples((4, 3)), without=False)


def test_a_pipeline_whose_tensors_have_no_types():
    """Scaler, classifier and normaliser: nobody states what lies between them."""
    nodes = [
        node_of("Scaler", outputs=("a",), offset=[0.5, 1.0, 0.0, 0.0, 2.0, 1.0], scale=[2.0] * 6),
        classifier(4, 4, post_transform="SOFTMAX"),
        node_of("Normalizer", ("scores",), ("y",), norm="L1"),
    ]
    nodes[1].input[0] = "a"
    model = assert_same(proto_of(nodes, 6, ["label", "y"]), samples((32, 6)))
    assert [node.op_type for node in model.nodes if node.op_type == "Identity"] == ["Identity"]


@pytest.mark.parametrize("norm", ["L1", "L2", "MAX"])
def test_what_does_not_add_up_to_one_is_still_normalised(norm):
    nodes = [
        classifier(4, 4, post_transform="LOGISTIC"),
        node_of("Normalizer", ("scores",), ("y",), norm=norm),
    ]
    model = assert_same(proto_of(nodes, 6, ["label", "y"]), samples((32, 6)), without=False)
    assert "the_Normalizer" in model.by_name


def test_models_of_older_operators_stay():
    assert_stays(proto_of([classifier(4, 4)], 6, ["label", "scores"], opset=6))


@pytest.mark.parametrize("labels", [INTEGERS, TEXTS])
def test_maps_become_arrays(labels):
    texts = labels is TEXTS
    zipped = node_of(
        "ZipMap",
        ("scores",),
        ("maps",),
        **{"classlabels_strings" if texts else "classlabels_int64s": labels},
    )
    node = classifier(4, 4, labels=TEXTS if texts else None, post_transform="SOFTMAX")
    proto = proto_of([node, zipped], 6, ["label", "maps"])
    values = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    key = TensorProto.STRING if texts else TensorProto.INT64
    proto.graph.output[1].type.CopyFrom(
        helper.make_sequence_type_proto(helper.make_map_type_proto(key, values))
    )
    x = samples((5, 6))
    model, notes = maps_to_arrays(expand_linear_ml(Model.from_proto(proto))[0])
    assert notes == (
        f"output 'maps' is an array with a column per class ({', '.join(map(repr, labels))}), "
        "and no list of maps",
    )
    assert model.outputs == ("label", "maps") and not model.odd
    label, array = run(model.to_proto(), x)
    expected_label, maps = run(proto, x)
    assert label.tolist() == expected_label.tolist()
    np.testing.assert_allclose(array, [[row[name] for name in labels] for row in maps], atol=1e-6)


def test_maps_of_probabilities_without_a_type_become_arrays():
    nodes = [
        helper.make_node("Identity", ["x"], ["p"], name="same"),
        node_of("ZipMap", ("p",), ("maps",), classlabels_int64s=[0, 1, 2]),
    ]
    model, notes = maps_to_arrays(Model.from_proto(proto_of(nodes, 3, ["maps"])))
    assert model.type_of("maps") == TensorType(TensorProto.FLOAT, (None, 3)) and len(notes) == 1
    np.testing.assert_array_equal(run(model.to_proto(), samples((2, 3)))[0], samples((2, 3)))


def test_maps_that_a_node_reads_stay():
    nodes = [
        node_of("ZipMap", ("x",), ("maps",), classlabels_int64s=[0, 1, 2]),
        helper.make_node("SequenceLength", ["maps"], ["n"], name="length"),
    ]
    model = Model.from_proto(proto_of(nodes, 3, ["n"]))
    assert maps_to_arrays(model) == (model, ())


def test_models_without_maps_are_untouched():
    model = Model.from_proto(proto_of([classifier(4, 4)], 6, ["label", "scores"]))
    assert maps_to_arrays(model) == (model, ())

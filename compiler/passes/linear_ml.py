"""Linear models of ai.onnx.ml as products, and what goes along with them as operators of ONNX's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.emitter import Emitter

__all__ = ["expand_linear_ml"]

_DOMAIN = "ai.onnx.ml"
#: Version of ONNX's operators from which on sums broadcast as NumPy's do.
_BROADCAST = 7
_FLOAT = TensorProto.FLOAT
#: Types of features that ONNX Runtime brings to float32 first.
_NUMBERS = (_FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32)

Shape = tuple[int | None, ...]


def expand_linear_ml(model: Model) -> tuple[Model, dict[str, str]]:
    """The model with operators of ONNX's own in the place of these of ai.onnx.ml, wherever they mean the
    same to ONNX Runtime:

    - LinearRegressor, LinearClassifier, and SVMRegressor with a linear kernel: a Gemm, what is done with the
      scores, and the label by ArgMax and Gather;
    - Scaler: Sub and Mul; Binarizer: Greater and Cast; FeatureVectorizer: Concat;
    - ArrayFeatureExtractor of constant indices: Gather;
    - Normalizer (L1) of what sums up to 1 already: Identity.

    Every other node stays, trees and other kernels among them, and so does a Normalizer in general: it
    divides by a computed number, which the host does either way.

    Requires
    --------
    Nodes have unique names. The ranks of the nodes' operands are known, as far as they can be.

    Returns
    -------
    the model, and per new node the name of the node that it replaces
    """
    if model.opset < _BROADCAST:
        return model, {}
    emitter = Emitter(model)
    ones: set[str] = {
        node.outputs[0] for node in model.nodes if node.op_type == "Softmax" and _over_classes(model, node)
    }
    for node in model.nodes:
        expand = _EXPANSIONS.get(node.op_type) if node.domain == _DOMAIN else None
        write = expand(emitter, node, ones) if expand is not None else None
        if write is None:
            emitter.keep(node)
        else:
            emitter.replace(node, _FLOAT)
            write()
    return (emitter.result(), emitter.origins) if emitter.origins else (model, {})


Write = Callable[[], object]


def _over_classes(model: Model, node: Node) -> bool:
    shape = model.type_of(node.inputs[0]).shape
    return not node.domain and shape is not None and len(shape) == 2 and node.attrs.get("axis", 1) in (1, -1)


def _features(emitter: Emitter, name: str) -> Shape | None:
    """The shape of a tensor of numbers, as far as it is known; None where rank or type is not."""
    known = emitter.type_of(name)
    return known.shape if known.element in _NUMBERS else None


def _rows(emitter: Emitter, node: Node, features: int) -> Callable[[], tuple[str, int | None]] | None:
    """What writes the first operand as float32 [N, features] and gives its name and N; None where the operand
    is nothing of the kind."""
    source = node.inputs[0]
    shape = _features(emitter, source)
    if shape is None or len(shape) not in (1, 2) or shape[-1] not in (None, features) or not features:
        return None

    def write() -> tuple[str, int | None]:
        x = _in_float(emitter, source, shape)
        if len(shape) == 2:
            return x, shape[0]
        return emitter.reshape(x, (1, features), "row"), 1

    return write


def _in_float(emitter: Emitter, source: str, shape: Shape) -> str:
    if emitter.type_of(source).element == _FLOAT:
        return source
    return emitter.add("Cast", (source,), "float", shape, to=_FLOAT)


def _gemm(
    emitter: Emitter,
    x: tuple[str, int | None],
    weights: np.ndarray,
    offsets: np.ndarray,
    output: str,
) -> str:
    """x W^T + b, for weights [K, C] and offsets [K]."""
    matrix = emitter.constant("coefficients", np.ascontiguousarray(weights.T, np.float32))
    bias = emitter.constant("intercepts", offsets.astype(np.float32))
    return emitter.add("Gemm", (x[0], matrix, bias), "scores", (x[1], len(weights)), output)


def _numbers(node: Node, name: str) -> np.ndarray:
    return np.array(node.attrs.get(name, ()), np.float32)


def _post_transform(node: Node) -> str:
    return str(node.attrs.get("post_transform", b"NONE").decode())


def _linear_regressor(emitter: Emitter, node: Node, _: set[str]) -> Write | None:
    targets = node.attrs.get("targets", 1)
    weights, offsets = _numbers(node, "coefficients"), _numbers(node, "intercepts")
    # ONNX Runtime transforms scores of several targets alone.
    if _post_transform(node) != "NONE" or targets < 1 or weights.size % targets:
        return None
    weights = weights.reshape(targets, -1)
    offsets = np.zeros(targets, np.float32) if not offsets.size else offsets
    rows = _rows(emitter, node, weights.shape[1])
    if rows is None or len(offsets) != targets:
        return None
    return lambda: _gemm(emitter, rows(), weights, offsets, node.outputs[0])


def _svm_regressor(emitter: Emitter, node: Node, _: set[str]) -> Write | None:
    """One Gemm: with a linear kernel, the support vectors add up to one row of weights."""
    attrs, factors, rho = node.attrs, _numbers(node, "coefficients"), _numbers(node, "rho")
    supports = attrs.get("n_supports", 0)
    if (
        attrs.get("kernel_type", b"LINEAR") != b"LINEAR"
        or _post_transform(node) != "NONE"
        or attrs.get("one_class", 0)
        or len(rho) != 1
    ):
        return None
    weights = factors.reshape(1, -1)
    if supports:
        vectors = _numbers(node, "support_vectors")
        if len(factors) != supports or vectors.size % supports:
            return None
        weights = factors.astype(np.float64)[None] @ vectors.reshape(supports, -1).astype(np.float64)
    rows = _rows(emitter, node, weights.shape[1])
    if rows is None:
        return None
    return lambda: _gemm(emitter, rows(), weights, rho, node.outputs[0])


def _linear_classifier(emitter: Emitter, node: Node, ones: set[str]) -> Write | None:
    transform = _post_transform(node)
    weights, offsets = _numbers(node, "coefficients"), _numbers(node, "intercepts")
    labels = _labels(node)
    count = len(offsets)
    if labels is None or not count or weights.size % count or transform not in _TRANSFORMS:
        return None
    weights = weights.reshape(count, -1)
    if count == 1 and len(labels) == 2:
        # One row of weights tells two classes apart. What ONNX Runtime gives as their scores without a
        # sigmoid are no scores of two rows.
        if transform != "LOGISTIC":
            return None
        weights, offsets = np.concatenate([-weights, weights]), np.concatenate([-offsets, offsets])
    elif count != len(labels) or count < 2:
        return None
    # SOFTMAX_ZERO keeps scores of exactly 0, which an offset makes impossible but for single numbers.
    if transform == "SOFTMAX_ZERO" and not offsets.all():
        return None
    rows = _rows(emitter, node, weights.shape[1])
    if rows is None:
        return None
    label, probabilities = (*node.outputs, "")[:2]
    operator = _TRANSFORMS[transform]
    if probabilities and (operator == "Softmax" or (operator and count == 1)):
        ones.add(probabilities)
    model = emitter.model

    def write() -> None:
        x = rows()
        scores = _gemm(emitter, x, weights, offsets, "" if operator else probabilities)
        if probabilities and operator:
            shape = (x[1], len(labels))
            axis = {"axis": 1} if operator == "Softmax" else {}
            emitter.add(operator, (scores,), "probabilities", shape, probabilities, **axis)
        if label and model.reader_count(label):
            best = emitter.add(
                "ArgMax", (scores,), "best", (x[1],), element=TensorProto.INT64, axis=1, keepdims=0
            )
            names = emitter.constant("labels", labels)
            kind = TensorProto.STRING if labels.dtype == object else TensorProto.INT64
            emitter.add("Gather", (names, best), "label", (x[1],), label, element=kind, axis=0)

    return write


#: What is done with scores -> the operator that does it, '' for none.
_TRANSFORMS = {"NONE": "", "LOGISTIC": "Sigmoid", "SOFTMAX": "Softmax", "SOFTMAX_ZERO": "Softmax"}


def _labels(node: Node) -> np.ndarray | None:
    """The labels of a classifier: integers, or texts."""
    numbers = node.attrs.get("classlabels_ints", ())
    texts = node.attrs.get("classlabels_strings", ())
    if bool(numbers) == bool(texts):
        return None
    if numbers:
        return np.array(numbers, np.int64)
    return np.array([text.decode() for text in texts], object)


def _scaler(emitter: Emitter, node: Node, _: set[str]) -> Write | None:
    source = node.inputs[0]
    shape = _features(emitter, source)
    offset, scale = _numbers(node, "offset"), _numbers(node, "scale")
    # ONNX Runtime scales a tensor of more than two axes along none of them.
    single = offset.size == 1 and scale.size == 1
    if shape is None or not (
        single or (len(shape) in (1, 2) and offset.shape == scale.shape == (shape[-1],))
    ):
        return None

    def write() -> None:
        x = _in_float(emitter, source, shape)
        if offset.any():
            x = emitter.add("Sub", (x, emitter.constant("offset", offset)), "centred", shape)
        emitter.add("Mul", (x, emitter.constant("scale", scale)), "scaled", shape, node.outputs[0])

    return write


def _binarizer(emitter: Emitter, node: Node, _: set[str]) -> Write | None:
    shape = _features(emitter, node.inputs[0])
    if shape is None or emitter.type_of(node.inputs[0]).element != _FLOAT:
        return None

    def write() -> None:
        bound = emitter.constant("threshold", np.array(node.attrs.get("threshold", 0.0), np.float32))
        above = emitter.add("Greater", (node.inputs[0], bound), "above", shape, element=TensorProto.BOOL)
        emitter.add("Cast", (above,), "binary", shape, node.outputs[0], to=_FLOAT)

    return write


def _feature_vectorizer(emitter: Emitter, node: Node, _: set[str]) -> Write | None:
    widths = list(node.attrs.get("inputdimensions", ()))
    shapes = [_features(emitter, name) for name in node.inputs]
    found = [shape[1] for shape in shapes if shape is not None and len(shape) == 2]
    # Features that are too few or too many would be padded, or cut off.
    if not widths or found != widths:
        return None
    batch = next((shape[0] for shape in shapes if shape is not None and shape[0] is not None), None)

    def write() -> None:
        parts = [
            emitter.add("Cast", (name,), f"float{index}", shape or (), to=_FLOAT)
            if emitter.type_of(name).element != _FLOAT
            else name
            for index, (name, shape) in enumerate(zip(node.inputs, shapes, strict=True))
        ]
        emitter.add("Concat", parts, "features", (batch, sum(widths)), node.outputs[0], axis=1)

    return write


def _array_feature_extractor(emitter: Emitter, node: Node, _: set[str]) -> Write | None:
    model = emitter.model
    shape, indices = emitter.type_of(node.inputs[0]).shape, model.constants.get(node.inputs[1])
    if node.inputs[0] in model.constants or not shape or indices is None or not indices.size:
        return None

    def write() -> None:
        chosen = emitter.constant("indices", indices.reshape(-1).astype(np.int64))
        inputs, element = (node.inputs[0], chosen), emitter.type_of(node.inputs[0]).element
        axis = len(shape) - 1
        if axis:
            shape_of = (*shape[:axis], indices.size)
            emitter.add("Gather", inputs, "chosen", shape_of, node.outputs[0], axis=axis)
            return
        found = emitter.add("Gather", inputs, "chosen", (indices.size,), element=element, axis=0)
        emitter.reshape(found, (1, indices.size), "row", node.outputs[0])

    return write


def _normalizer(emitter: Emitter, node: Node, ones: set[str]) -> Write | None:
    """Nothing to do, where a Softmax or a pair of p and 1 - p is normalised by its sum."""
    if node.attrs.get("norm", b"MAX") != b"L1" or node.inputs[0] not in ones:
        return None
    shape = emitter.type_of(node.inputs[0]).shape or ()
    return lambda: emitter.add("Identity", node.inputs, "same", shape, node.outputs[0])


_EXPANSIONS: dict[str, Callable[[Emitter, Node, set[str]], Write | None]] = {
    "ArrayFeatureExtractor": _array_feature_extractor,
    "Binarizer": _binarizer,
    "FeatureVectorizer": _feature_vectorizer,
    "LinearClassifier": _linear_classifier,
    "LinearRegressor": _linear_regressor,
    "Normalizer": _normalizer,
    "SVMRegressor": _svm_regressor,
    "Scaler": _scaler,
}

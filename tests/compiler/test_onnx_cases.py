"""The operator tests that come with the onnx package, as an oracle that nobody here wrote.

Float cases are quantised around the operator; the truth is then the package's own reference evaluator on that
QDQ model, and, up to the quantisation, the case's expected output. Our multipliers have 16 bits, so an
element may go the other way where the exact result lies next to a tie, and nowhere else.
"""

import functools
import re
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

from systolith.compiler.base.errors import CompileError
from systolith.compiler.partition import import_model
from systolith.evidence.layerwise import held
from tests.compiler.qdq import QdqModel

#: Why a case may be refused. Anything else is a failure.
REFUSALS = re.compile(
    "one or two spatial axes|transA|second operand must be constant|two axes|Indices|storage_order|not one "
    "number per column|[Tt]raining_mode"
)
#: How near to a tie, in steps of the output: 2**-16 of the 256 steps, and half a unit of an int32 bias.
NEAR_TIE = 1 / 64
#: They jump, so a quantised input may give quite another output than the float case.
JUMPING = ("ThresholdedRelu",)
#: Operators that may take several here, with a rounding between them.
SEVERAL = ("Gemm",)
#: Operators whose second and later inputs are weights.
WEIGHTED = ("Conv", "Gemm", "MatMul")
#: All their float inputs are activations.
JOINING = ("Add", "Sub", "Mul", "Concat")
UNARY = (
    "Abs",
    "AveragePool",
    "Celu",
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "Flatten",
    "Gelu",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "MaxPool",
    "Mish",
    "Neg",
    "Relu",
    "Reshape",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Squeeze",
    "Tanh",
    "ThresholdedRelu",
    "Transpose",
    "Unsqueeze",
    "BatchNormalization",
)


@functools.cache
def load_cases():
    """Cases of one node by operator; takes seconds, so not while tests are collected."""
    with warnings.catch_warnings():
        # The package divides by zero on purpose while it makes its data.
        warnings.simplefilter("ignore")
        cases = [case for case in load_model_tests(kind="node") if len(case.model.graph.node) == 1]
    found = {}
    for case in cases:
        found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def floats(op):
    """Cases whose data is float32, in and out."""
    for case in load_cases()[op]:
        inputs, outputs = case.data_sets[0]
        if (
            all(isinstance(a, np.ndarray) and a.size for a in (*inputs, *outputs))
            and inputs[0].dtype == outputs[0].dtype == np.float32
        ):
            yield case.name, case.model, inputs, outputs


def fitting(array):
    """Scale and zero point that cover an array and 0."""
    low, high = min(0.0, float(array.min())), max(0.0, float(array.max()))
    scale = np.float32(max(high - low, 1e-3) / 255)
    return scale, np.int8(np.clip(-128 - round(low / float(scale)), -128, 127))


def quantised(model, arrays, expected):
    """The case's node between QuantizeLinear and DequantizeLinear; returns the model and its activations by
    name."""
    (node,) = model.graph.node
    m = QdqModel(0, opset=max(model.opset_import[0].version, 19))
    activations, names = {}, []
    values = dict(zip((value.name for value in model.graph.input), arrays, strict=True))
    for index, name in enumerate(node.input):
        array = values.get(name)
        if not name:
            names.append("")
        elif index == 0 or node.op_type in JOINING:
            if name not in activations:
                activations[name] = array
                m.inputs.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
            names.append(m.qdq(name, *map(m.const, fitting(array))))
        elif index == 1 and node.op_type in WEIGHTED:
            scale = np.float32(np.abs(array).max() / 127)
            weights = np.rint(array / scale).astype(np.int8)
            names.append(m.node("DequantizeLinear", m.const(weights), m.const(scale), m.const(np.int8(0))))
        else:
            names.append(m.const(array))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    y = m.node(node.op_type, *names, **attributes)
    return m.build(m.qdq(y, *map(m.const, fitting(expected)))), activations, y


@pytest.mark.parametrize("op", WEIGHTED + JOINING + UNARY)
def test_operator_agrees_with_its_onnx_cases(op):
    accepted = []
    for name, model, arrays, (expected, *_) in floats(op):
        model, activations, before = quantised(model, arrays, expected)
        try:
            graph = import_model(model)
        except CompileError as error:
            assert REFUSALS.search(str(error)), f"{name}: {error}"
            continue
        accepted.append(name)
        (output,) = graph.outputs
        tensor = graph.tensors[output]
        codes = {key: held(value, graph.tensors[key]) for key, value in activations.items()}
        actual = graph.run(codes)[output]
        model.graph.output.append(onnx.ValueInfoProto(name=before))
        truth, exact = ReferenceEvaluator(model).run(None, activations)
        difference = actual.astype(int) - held(truth, tensor)
        to_tie = np.abs(np.abs(exact / np.float64(tensor.scale)) % 1 - 0.5)
        # With a sum behind the product, what lies between is rounded too.
        wrong = np.abs(difference) > ((to_tie <= NEAR_TIE) | (len(graph.nodes) > 1 and op in SEVERAL))
        assert not wrong.any(), f"{name}: off by {difference[wrong]} steps, {to_tie[wrong]} from a tie"
        real = (actual.astype(np.float64) - tensor.zero_point) * tensor.scale
        error = np.abs(real - expected).max() / max(1e-3, np.ptp(expected), np.abs(expected).max())
        assert error <= 0.03 or op in JUMPING, (
            f"{name} is off by {error:.1%} of the range of the expected output"
        )
    assert accepted, f"every case of {op} is refused"


@pytest.mark.parametrize("op", ["QLinearConv", "QLinearMatMul"])
def test_integer_operator_gives_the_integers_of_the_reference_evaluator(op):
    """The cases' weights have odd zero points, which a correction of the sums takes care of, to one step;
    read as symmetric, every integer is the same."""
    accepted = 0
    for case in load_cases()[op]:
        inputs, _ = case.data_sets[0]
        if any(a.dtype == np.float16 for a in inputs) or (op == "QLinearMatMul" and inputs[3].ndim != 2):
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        names = [value.name for value in model.graph.input]
        # Everything but the activation is constant in what this core runs.
        del model.graph.input[1:]
        constants = dict(zip(names[1:], inputs[1:], strict=True))
        for symmetric in (False, True):
            weights_zero = model.graph.node[0].input[5]
            if symmetric:
                zero = constants[weights_zero]
                constants[weights_zero] = np.full_like(zero, 128 if zero.dtype == np.uint8 else 0)
            del model.graph.initializer[:]
            model.graph.initializer.extend(
                numpy_helper.from_array(value, name) for name, value in constants.items()
            )
            graph = import_model(model)
            (x,), (y,) = graph.inputs, graph.outputs
            (truth,) = ReferenceEvaluator(model).run(None, {names[0]: inputs[0]})
            actual = graph.run({x: held(inputs[0], graph.tensors[x])})[y]
            difference = actual.astype(int) - held(truth, graph.tensors[y])
            assert np.abs(difference).max() <= (0 if symmetric else 1), (case.name, symmetric)
            accepted += 1
    assert accepted

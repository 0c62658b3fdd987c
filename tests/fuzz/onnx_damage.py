"""Damage to an ONNX model: to its bytes, to any field of its message, and to what the fields mean."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper

from tests.fuzz.values import NAMES

__all__ = ["damage_bytes", "damage_field", "damage_meaning"]

_INTEGERS = [0, 1, 2, 3, 7, -1, -2, 128, 255, 1000]
_INTEGERS += [1 << 16, (1 << 20) + 1, 1 << 26, (1 << 31) - 1, 1 << 31, 1 << 32, -(1 << 31)]
_INTEGERS += [1 << 62, (1 << 63) - 1, -(1 << 63)]
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    *(name for name in NAMES if "\ud800" not in name),
    "NOTSET",
    "SAME_UPPER",
    "reverse",
    "bidirectional",
    "/",
)
_OPERATORS = """
    Conv ConvTranspose MatMul Gemm Add Mul Sub Div Relu Clip Sigmoid MaxPool AveragePool
    GlobalAveragePool Concat Split Slice Gather Reshape Flatten Transpose Squeeze Unsqueeze Pad
    Resize Tile Expand Range ConstantOfShape Constant Cast QuantizeLinear DequantizeLinear
    DynamicQuantizeLinear QLinearConv QLinearMatMul QLinearAdd QGemm LSTM GRU RNN Softmax
    BatchNormalization Dropout Identity Shape Where If Loop Scan TopK NonZero OneHot EyeLike CumSum
    Einsum Foo
    """.split()
_ATTRIBUTES = """
    group strides dilations pads kernel_shape axis axes auto_pad ceil_mode alpha beta transA transB
    perm hidden_size direction layout clip activations allowzero to epsilon keepdims block_size
    output_dtype count_include_pad storage_order channels_last num_scan_inputs training_mode
    """.split()
_HUGE = (1 << 24, 1 << 26, (1 << 26) + 1, 1 << 31, 1 << 40, 1 << 62)


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flipped bits, cuts, repeats and insertions, without a look at what the bytes mean."""
    kind = rng.randrange(5)
    at = rng.randrange(len(data))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]
    if kind == 2:
        return data[:at] + data[at + rng.randint(1, 64) :]
    if kind == 3:
        length = rng.randint(1, 64)
        return data[: at + length] + data[at:]
    flipped = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            try:
                items = list(value)
            except TypeError:
                items = [value]
            for item in items:
                yield from _messages(item)


def _other(rng: random.Random, field: FieldDescriptor, old: object, names: list[str]) -> object:
    """Another value for a field that holds no message."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        if field.enum_type is not None:
            return rng.choice([value.number for value in field.enum_type.values])
        near = old + rng.choice([-1, 1])
        value = rng.choice([*_INTEGERS, near, near, near, old * 2, -old])
        low, high = (-(1 << 63), (1 << 63) - 1)
        if field.cpp_type == FieldDescriptor.CPPTYPE_INT32:
            low, high = -(1 << 31), (1 << 31) - 1
        elif field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
            low, high = 0, (1 << 64) - 1
        return min(max(value, low), high)
    if isinstance(old, float):
        return rng.choice([*_FLOATS, old * 2, -old])
    if isinstance(old, bytes):
        at = rng.randrange(len(old) + 1)
        return rng.choice(
            [b"", old[:at], old + b"\0", old[:at] + rng.randbytes(1) + old[at + 1 :], b"\xff" * 40]
        )
    return rng.choice([*names, *names, *names, *_TEXTS])


def damage_field(rng: random.Random, model: onnx.ModelProto) -> str:
    """One field of one message changed, removed, repeated, exchanged; says which."""
    names = [
        name for node in model.graph.node for name in (*node.input, *node.output, node.name, node.op_type)
    ]
    names += [tensor.name for tensor in model.graph.initializer]
    fields = [
        (message, field)
        for message in _messages(model)
        for field, _ in message.ListFields()
        if field.name not in ("raw_data", "doc_string") or rng.random() < 0.3
    ]
    message, field = rng.choice(fields)
    label = f"{message.DESCRIPTOR.name}.{field.name}"
    value = getattr(message, field.name)
    repeated = not isinstance(value, (int, float, str, bytes, Message))
    if rng.random() < 0.1:
        message.ClearField(field.name)
        return f"{label} removed"
    if not repeated:
        if isinstance(value, Message):
            message.ClearField(field.name)
            return f"{label} removed"
        setattr(message, field.name, _other(rng, field, value, names))
        return f"{label} changed"
    at, kind = rng.randrange(len(value)), rng.randrange(4)
    if kind == 0:
        del value[at]
        return f"an item of {label} removed"
    if kind == 1:
        item = value[at]
        value.append(item)
        return f"an item of {label} repeated"
    if kind == 2:
        items = list(value)
        other = rng.randrange(len(items))
        items[at], items[other] = items[other], items[at]
        copies = [type(item)() for item in items] if isinstance(items[0], Message) else items
        for copy, item in zip(copies, items, strict=True):
            if isinstance(copy, Message):
                copy.CopyFrom(item)
        del value[:]
        value.extend(copies)
        return f"items of {label} exchanged"
    if isinstance(value[at], Message):
        value[at].Clear()
        return f"an item of {label} emptied"
    value[at] = _other(rng, field, value[at], names)
    return f"an item of {label} changed"


# What fields mean.
def _repeat_output(rng: random.Random, model: onnx.ModelProto) -> None:
    model.graph.output.append(rng.choice(model.graph.output))


def _huge_extent(rng: random.Random, model: onnx.ModelProto) -> None:
    dims = rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.shape.dim
    if dims:
        rng.choice(dims).dim_value = rng.choice(_HUGE)


def _declare(rng: random.Random, model: onnx.ModelProto) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output, *model.graph.value_info])
    if rng.random() < 0.5:
        value.type.tensor_type.elem_type = rng.choice(list(TensorProto.DataType.values()))
    else:
        shape = [rng.choice([0, 1, 2, 3, 5, 6, 7, -1]) for _ in range(rng.randint(0, 5))]
        value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))


def _attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    node = rng.choice(model.graph.node)
    name = rng.choice(_ATTRIBUTES)
    integers = [rng.choice(_INTEGERS) for _ in range(rng.randint(0, 4))]
    value = rng.choice(
        [rng.choice(_INTEGERS), integers or [1], rng.choice(_FLOATS), rng.choice(_TEXTS), [1, 1, 1, 1]]
    )
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _operator(rng: random.Random, model: onnx.ModelProto) -> None:
    node = rng.choice(model.graph.node)
    node.op_type = rng.choice(_OPERATORS)
    if rng.random() < 0.3:
        del node.attribute[:]


def _constant_type(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = rng.choice(model.graph.initializer)
    kind = rng.choice(list(TensorProto.DataType.values()))
    if rng.random() < 0.5:
        tensor.data_type = kind
    else:
        # As many bytes as the new type takes.
        count = 1
        for extent in tensor.dims:
            count *= extent
        size = {1: 4, 6: 4, 7: 8, 11: 8, 12: 4, 13: 8, 10: 2, 4: 2, 5: 2, 16: 2}.get(kind, 1)
        tensor.CopyFrom(TensorProto(name=tensor.name, data_type=kind, dims=tensor.dims))
        tensor.raw_data = rng.randbytes(count * size)


def _constant_shape(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = rng.choice(model.graph.initializer)
    shape = [rng.choice([1, 1, 2, 3, 4, 0, 6]) for _ in range(rng.randint(0, 5))]
    if rng.random() < 0.3:
        shape = [*tensor.dims, 1] if rng.random() < 0.5 else list(tensor.dims)[1:]
    count = 1
    for extent in shape:
        count *= extent
    size = max(1, len(tensor.raw_data) // max(1, _count(tensor)))
    old = tensor.raw_data or b"\0"
    tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=shape))
    tensor.raw_data = (old * (count * size // len(old) + 1))[: count * size]


def _count(tensor: TensorProto) -> int:
    count = 1
    for extent in tensor.dims:
        count *= extent
    return count


def _external(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = [
        "model.onnx",
        "weights.bin",
        "/etc/passwd",
        "../weights.bin",
        "",
        ".",
        "calib.npz",
        "a\0b",
        "/dev/zero",
    ]
    entries = {"location": rng.choice(places)}
    if rng.random() < 0.7:
        entries["offset"] = rng.choice(["0", "8", "-1", "9" * 30, "x", str(1 << 62)])
    if rng.random() < 0.7:
        entries["length"] = rng.choice(
            ["0", str(_count(tensor)), str(4 * _count(tensor)), "-1", str(1 << 62)]
        )
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def _opset(rng: random.Random, model: onnx.ModelProto) -> None:
    entry = rng.choice(model.opset_import)
    entry.version = rng.choice([0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 19, 21, 22, 23, 24, 28, 99, -1])
    if rng.random() < 0.2:
        entry.domain = rng.choice(["", "ai.onnx", "ai.onnx.ml", "com.microsoft", "foo"])


def _wire(rng: random.Random, model: onnx.ModelProto) -> None:
    """An operand is another tensor: any, so also one that comes later, or the node's own result."""
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    node = rng.choice(model.graph.node)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    if rng.random() < 0.2:
        node.input.append(rng.choice(names))


def _node(rng: random.Random, model: onnx.ModelProto) -> None:
    """A node more, less, or twice."""
    at = rng.randrange(len(model.graph.node))
    kind = rng.randrange(3)
    if kind == 0:
        del model.graph.node[at]
    elif kind == 1:
        copy = model.graph.node.add()
        copy.CopyFrom(model.graph.node[at])
        if rng.random() < 0.5:
            copy.output[:] = [f"{name}_again" for name in copy.output]
    else:
        old = model.graph.node[at]
        if old.output:
            name, old.output[0] = old.output[0], old.output[0] + "_old"
            new = helper.make_node(rng.choice(_OPERATORS), [old.output[0], *old.input[1:]], [name], "new")
            model.graph.node.insert(at + 1, new)


def _subgraph(rng: random.Random, model: onnx.ModelProto) -> None:
    """A node goes into the branches of an If, or into the body of a Loop that runs for ages."""
    at = rng.randrange(len(model.graph.node))
    node = model.graph.node[at]
    if not node.output or node.op_type in ("If", "Scan", "Loop"):
        return
    result = helper.make_tensor_value_info(node.output[0], 1, None)
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    if rng.random() < 0.5:
        graph = helper.make_graph([inner], "branch", [], [result])
        new = helper.make_node(
            "If", ["fuzz_yes"], [node.output[0]], "if", then_branch=graph, else_branch=graph
        )
        model.graph.initializer.append(helper.make_tensor("fuzz_yes", TensorProto.BOOL, [], [True]))
    else:
        body = helper.make_graph(
            [inner, helper.make_node("Identity", ["fuzz_go"], ["fuzz_on"])],
            "body",
            [helper.make_tensor_value_info("fuzz_i", 7, []), helper.make_tensor_value_info("fuzz_go", 9, [])],
            [helper.make_tensor_value_info("fuzz_on", 9, []), result],
        )
        new = helper.make_node("Loop", ["fuzz_trips", ""], [node.output[0]], "loop", body=body)
        trips = rng.choice([0, 1, 3])
        model.graph.initializer.append(helper.make_tensor("fuzz_trips", TensorProto.INT64, [], [trips]))
    model.graph.node[at].CopyFrom(new)


def _values(rng: random.Random, model: onnx.ModelProto) -> None:
    """A constant of floats with special values, or of integers with extremes."""
    tensor = rng.choice(model.graph.initializer)
    if tensor.data_type == TensorProto.FLOAT:
        value = rng.choice(_FLOATS)
        tensor.CopyFrom(
            helper.make_tensor(tensor.name, TensorProto.FLOAT, tensor.dims, [value] * _count(tensor))
        )
    elif tensor.data_type == TensorProto.INT64:
        values = [rng.choice([*_INTEGERS, *_HUGE]) for _ in range(_count(tensor))]
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.INT64, tensor.dims, values))
    else:
        tensor.raw_data = bytes([rng.choice([0, 127, 128, 255])]) * len(tensor.raw_data)


def _extents(rng: random.Random, model: onnx.ModelProto) -> None:
    """Inputs of other extents, and nothing declared that contradicts them."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim[rng.randint(0, 2) :]:
            if rng.random() < 0.5:
                dim.dim_value = rng.randint(1, 12)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def _small_numbers(rng: random.Random, model: onnx.ModelProto) -> None:
    """Attributes that a node has, with other small numbers; also those of windows, which it might have."""
    node = rng.choice(model.graph.node)
    if node.op_type in ("Conv", "QLinearConv", "MaxPool", "AveragePool") and rng.random() < 0.7:
        name = rng.choice(["strides", "dilations", "pads", "kernel_shape", "auto_pad", "ceil_mode", "group"])
        numbers = [rng.randint(0 if name == "pads" else 1, 4) for _ in range(4 if name == "pads" else 2)]
        kinds = ["SAME_UPPER", "SAME_LOWER", "VALID"]
        single = rng.choice(kinds) if name == "auto_pad" else rng.randint(0, 2)
        value = numbers if name in ("strides", "dilations", "pads", "kernel_shape") else single
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])
    for attribute in node.attribute:
        if attribute.ints and rng.random() < 0.3:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.randint(0, 4)
        elif attribute.type == onnx.AttributeProto.INT and rng.random() < 0.3:
            attribute.i = rng.randint(-2, 4)
    for value in (*model.graph.output, *model.graph.value_info):
        value.type.tensor_type.ClearField("shape")


def _not_utf8(rng: random.Random, model: onnx.ModelProto) -> None:
    """A name that `damage_meaning` replaces in the bytes."""
    node = rng.choice(model.graph.node)
    if rng.random() < 0.5:
        node.name = _PLACEHOLDER
    elif node.output:
        old = node.output[0]
        for other in (*model.graph.node,):
            other.input[:] = [_PLACEHOLDER if name == old else name for name in other.input]
        node.output[0] = _PLACEHOLDER
        for value in model.graph.output:
            if value.name == old:
                value.name = _PLACEHOLDER


_PLACEHOLDER = "FUZZ_NO_UTF8"
_MEANINGS: tuple[Callable[[random.Random, onnx.ModelProto], None], ...] = (
    *(_repeat_output, _huge_extent, _declare, _constant_type, _external, _opset, _subgraph, _not_utf8),
    # What makes models that are nearly right comes more often.
    *(_attribute, _operator, _constant_shape, _wire, _node, _values) * 2,
    *(_extents, _small_numbers) * 4,
)


def damage_meaning(rng: random.Random, model: onnx.ModelProto) -> tuple[str, bytes]:
    """One to three changes that leave a message well formed; what they were, and the bytes."""
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change = rng.choice(_MEANINGS)
        change(rng, model)
        done.append(change.__name__.strip("_"))
    data = model.SerializeToString()
    return ", ".join(done), data.replace(_PLACEHOLDER.encode(), b"\xff\xfe" * (len(_PLACEHOLDER) // 2))

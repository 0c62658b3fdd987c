"""Constants hold what their shape and type say, and external ones lie beside the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto

from systolith.compiler.base.errors import InputError, TensorError
from systolith.compiler.base.limits import shape_text
from systolith.compiler.base.proto import constants_of
from systolith.spec.printable import excerpt

__all__ = ["ELEMENT_BITS", "check_constants", "load_external", "type_name"]

#: Bits of an element, of every type that ONNX Runtime's CPU provider computes with or stores.
ELEMENT_BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.STRING: 8,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
}
#: Where a constant's elements lie that are not raw bytes; `int32_data` for every other type.
_FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}
#: Protobuf carries no message of 2 GiB or more.
_LIMIT = (1 << 31) - 1


def type_name(element: int) -> str:
    """Name of an element type, or its number where it has none."""
    names: dict[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return names.get(element, f"number {element}")


def _bytes(name: str, tensor: onnx.TensorProto) -> int:
    """Bytes that a constant's elements take.

    Raises
    ------
    TensorError   If its type or shape cannot be.
    """
    if tensor.data_type not in ELEMENT_BITS:
        raise TensorError(
            "import",
            name,
            f"the constant has type {type_name(tensor.data_type)}, which ONNX Runtime does not run",
            "store it as one of ONNX Runtime's types, such as float32 or int8",
        )
    if any(extent < 0 for extent in tensor.dims):
        raise TensorError(
            "import", name, f"the constant has shape {shape_text(tensor.dims)}", "extents are 0 or more"
        )
    count = math.prod(map(int, tensor.dims))
    return -(-count * ELEMENT_BITS[tensor.data_type] // 8)


def check_constants(model: onnx.ModelProto) -> None:
    """Refuse a constant of a type that ONNX Runtime does not know, or with more or fewer bytes than its shape
    takes.

    Raises
    ------
    TensorError   Naming the constant.
    """
    for sparse in model.graph.sparse_initializer:
        raise TensorError(
            "import", sparse.values.name, "sparse initializers are not supported", "store it dense"
        )
    for name, tensor in constants_of(model.graph):
        size = _bytes(name, tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            raise TensorError(
                "import",
                name,
                "the constant is external data, and the model came without a folder",
                "give the model as a file, or load the data with onnx.load_external_data_for_model",
            )
        shape = shape_text(tensor.dims)
        if tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
            if len(tensor.raw_data) != size:
                raise TensorError(
                    "import",
                    name,
                    f"the constant holds {len(tensor.raw_data)} bytes, but {type_name(tensor.data_type)} of "
                    f"shape {shape} takes {size}",
                    "export it again",
                )
            continue
        held = len(getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data")))
        packed = 2 if ELEMENT_BITS[tensor.data_type] == 4 else 1
        wanted = -(-math.prod(tensor.dims) // packed)
        if held != wanted:
            raise TensorError(
                "import",
                name,
                f"the constant holds {held} numbers, but {type_name(tensor.data_type)} of shape {shape} "
                f"takes {wanted}",
                "export it again",
            )


def load_external(model: onnx.ModelProto, folder: Path) -> None:
    """Read the constants that lie in files beside the model into it.

    Raises
    ------
    TensorError   If the entry of a constant is wrong, or points out of the model's folder.
    InputError    If a file cannot be read.
    """
    total = 0
    for name, tensor in constants_of(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        size = _bytes(name, tensor)
        total += size
        if total > _LIMIT:
            raise TensorError(
                "import",
                name,
                "the constants up to this one take 2 GiB or more",
                "ONNX Runtime takes no such model as one",
            )
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = _beside(name, entries.get("location", ""), folder)
        offset, length = (_number(name, entries, key) for key in ("offset", "length"))
        try:
            available = path.stat().st_size - offset
            with path.open("rb") as stream:
                stream.seek(offset)
                data = stream.read(size)
        except OSError as error:
            raise InputError(
                "import",
                name,
                f"its external data {str(path)!r} cannot be read: {error.strerror or error}",
                "put the file beside the model",
            ) from error
        held = length if "length" in entries else max(available, 0)
        if held != size or len(data) != size:
            raise TensorError(
                "import",
                name,
                f"the constant takes {size} bytes, and its external data has {min(held, max(available, 0))} "
                f"from byte {offset} on",
                "copy the file again, or export the model again",
            )
        tensor.raw_data = data
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _beside(name: str, location: str, folder: Path) -> Path:
    """The file of an external constant; only a regular file inside the model's folder, reached by no link."""
    pure = PurePosixPath(location)
    inside = location and not pure.is_absolute() and ".." not in pure.parts and "\0" not in location
    inside = inside and not PureWindowsPath(location).is_absolute()
    path = folder / pure
    if not inside or not path.resolve().is_relative_to(folder.resolve()):
        raise TensorError(
            "import",
            name,
            f"its external data {location!r} is not inside the model's folder",
            "put the file beside the model, and save the model with a relative location",
        )
    if not path.is_file():
        raise InputError(
            "import",
            name,
            f"its external data {location!r} is not beside the model",
            f"put that file into {str(folder)!r}",
        )
    return path


def _number(name: str, entries: Mapping[str, str], key: str) -> int:
    text = entries.get(key, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise TensorError(
            "import", name, f"{key} of its external data is {excerpt(text)}", "give a number of bytes"
        )
    return int(text)

"""Which file this is: ONNX, or something else that people have in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from systolith.compiler.base.boundary import one_line
from systolith.compiler.base.errors import InputError

__all__ = ["read_file"]

#: Protobuf carries no message of 2 GiB or more.
_LIMIT = 1 << 31
_TORCH = "export it with torch.onnx.export"
_KERAS = "convert it with tf2onnx (python -m tf2onnx.convert --keras ... --output model.onnx)"


def _starts(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


def _starts_text(*words: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(words)


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 1 << 32


#: (test of the first bytes, what the file is, what to do); the first that fits.
_OTHERS: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (lambda head: not head, "empty", "export or download it again"),
    (
        lambda head: head[4:8] == b"TFL3",
        "a TensorFlow Lite model",
        "convert it with tf2onnx (python -m tf2onnx.convert --tflite model.tflite --output model.onnx)",
    ),
    (
        lambda head: head[4:8] == b"ORTM",
        "a model in ONNX Runtime's own format",
        "give the .onnx file that it was made of",
    ),
    (
        _starts(b"version https://git-lfs"),
        "a pointer of Git LFS, not the file itself",
        "fetch it with git lfs pull",
    ),
    (_starts(b"PK\x03\x04"), "a zip archive", f"where it is a PyTorch model, {_TORCH}; of Keras, {_KERAS}"),
    (_starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd"), "compressed", "unpack it"),
    (_starts(b"\x89HDF\r\n\x1a\n"), "an HDF5 file, as Keras writes it", _KERAS),
    (
        _starts(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a Python pickle, as PyTorch and scikit-learn write it",
        f"{_TORCH}, or convert it with skl2onnx",
    ),
    (_is_safetensors, "safetensors, which holds weights without a graph", "export the model to ONNX"),
    (_starts(b"GGUF"), "GGUF, which holds weights without a graph", "export the model to ONNX"),
    (
        _starts(b"\x93NUMPY"),
        "a NumPy array",
        "give a model here, and arrays to --inputs or --calib as an .npz file",
    ),
    (_starts(b"SYSLIMG\0"), "an image made by systolith compile", "run it with systolith run"),
    (
        _starts_text(b"<!doctype html", b"<html"),
        "a web page",
        "download the file itself, not the page that shows it",
    ),
    (_starts_text(b"<?xml"), "XML", "give the model as .onnx"),
    (
        _starts_text(b"{"),
        "JSON",
        "where it is ONNX as JSON, rewrite it with onnx.save(onnx.load(FILE, format='json'), 'model.onnx')",
    ),
    (
        _starts_text(b"ir_version:", b"producer_name:", b"graph {", b"opset_import {"),
        "ONNX as text",
        "rewrite it with onnx.save(onnx.load(FILE, format='textproto'), 'model.onnx')",
    ),
)


def read_file(path: Path) -> onnx.ModelProto:
    """The model in a file, external data not loaded.

    Raises
    ------
    InputError   If it cannot be read, or is no ONNX model; with what it is instead, where that can be told.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(64)
            data = head + stream.read() if size < _LIMIT else b""
    except OSError as error:
        raise InputError(
            "import", "", f"cannot read {str(path)!r}: {error.strerror or error}", "check the path"
        ) from error
    for fits, kind, remedy in _OTHERS:
        if fits(head):
            raise InputError("import", "", f"{str(path)!r} is {kind}", remedy)
    if not data:
        raise InputError(
            "import",
            "",
            f"{str(path)!r} has {size} bytes, and protobuf reads less than 2 GiB",
            "save its weights as external data",
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InputError(
            "import", "", f"{str(path)!r} is not an ONNX model: {one_line(error)}", "export it again"
        ) from error
    return model

"""Every name of a model is text in UTF-8, and what is defined has one definition."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from systolith.compiler.base.errors import ModelError
from systolith.spec.printable import excerpt

__all__ = ["check_names", "drop_repeated_outputs"]

#: Text that nobody reads by machine.
_PROSE = frozenset({"doc_string", "producer_name", "producer_version"})


def _is_repeated(field: FieldDescriptor) -> bool:
    # Newer versions of protobuf have no label any more, older ones nothing else.
    newer = getattr(field, "is_repeated", None)
    return bool(field.label == FieldDescriptor.LABEL_REPEATED if newer is None else newer)


@cache
def _fields(descriptor: Descriptor) -> tuple[tuple[str, bool, bool], ...]:
    """Fields of a message that hold text or messages: (name, whether it is text, whether it is repeated)."""
    return tuple(
        (field.name, field.type == FieldDescriptor.TYPE_STRING, _is_repeated(field))
        for field in descriptor.fields
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
        and field.name not in _PROSE
    )


def _texts(message: Message) -> Iterator[tuple[str, str, object]]:
    """(message, field, value) of every text in a message, at any depth; bytes where it is no UTF-8."""
    for name, is_text, repeated in _fields(message.DESCRIPTOR):
        if is_text:
            try:
                value = getattr(message, name)
                for item in value if repeated else (value,):
                    yield message.DESCRIPTOR.name, name, item
            except UnicodeDecodeError as error:
                # Older versions of protobuf refuse to give it at all.
                yield message.DESCRIPTOR.name, name, bytes(error.object)
        elif repeated:
            for item in getattr(message, name):
                yield from _texts(item)
        elif message.HasField(name):
            yield from _texts(getattr(message, name))


def check_names(model: onnx.ModelProto) -> None:
    """Refuse text that is not UTF-8: names, operators, domains, dimensions, keys of the metadata.

    Raises
    ------
    ModelError   Showing the bytes.
    """
    for message, field, value in _texts(model):
        if isinstance(value, bytes):
            raise ModelError(
                "import",
                "",
                f"{field!r} of a {message.removesuffix('Proto')} is no text in UTF-8: {excerpt(value)}",
                "the file is damaged, or its exporter is: fetch it or export it again",
            )


def drop_repeated_outputs(model: onnx.ModelProto) -> None:
    """An output that the model lists twice is listed once: results go by name, as in ONNX Runtime."""
    seen: set[str] = set()
    kept = []
    for value in model.graph.output:
        if value.name not in seen:
            seen.add(value.name)
            kept.append(value)
    if len(kept) < len(model.graph.output):
        del model.graph.output[:]
        model.graph.output.extend(kept)

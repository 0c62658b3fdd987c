"""Messages to the process that runs host steps, and back: a JSON header, then arrays as plain bytes. A
sequence of tensors is its length, and then its arrays.

Nothing is pickled: what comes back is parsed as strictly as a file.
"""

from __future__ import annotations

import itertools
import json
import math
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from systolith.host.sequences import Value, Values

__all__ = ["WireError", "receive", "send"]

_LENGTH = struct.Struct("<I")
_HEADER_BYTES = 1 << 24
#: Most bytes of one message's arrays that are accepted, and of its extra bytes, a whole model of ONNX.
_MOST_BYTES, _MOST_EXTRA = 1 << 30, (1 << 31) - 1
#: In the place of an element type: texts, which travel as JSON, and a sequence of the arrays that follow.
_TEXTS, _SEQUENCE = "object", "sequence"
#: Element types by name.
_DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}


class WireError(Exception):
    """The other side has gone, or sends something else."""


def send(channel: socket.socket, header: Mapping[str, Any], values: Values, extra: bytes = b"") -> None:
    """One message; `extra` are bytes that go before the values.

    Raises
    ------
    WireError     If the other side has gone, or an array's type cannot be sent.
    TimeoutError  If it does not take the message within the channel's timeout.
    """
    described: list[list[object]] = []
    buffers = [extra]
    for name, value in values.items():
        if isinstance(value, list):
            described.append([name, _SEQUENCE, [len(value)], 0])
        for array in value if isinstance(value, list) else [value]:
            kind, data = _packed(name, array)
            described.append([name, kind, list(array.shape), len(data)])
            buffers.append(data)
    text = json.dumps({**header, "arrays": described, "extra": len(extra)}).encode()
    try:
        # One after another: together they would be a second copy of a model.
        channel.sendall(_LENGTH.pack(len(text)) + text)
        for buffer in buffers:
            channel.sendall(buffer)
    except TimeoutError:
        raise
    except OSError as error:
        raise WireError("the other side has gone") from error


def receive(
    channel: socket.socket, deadline: float | None = None
) -> tuple[dict[str, Any], dict[str, Value], bytes]:
    """Header, values and extra bytes of one message.

    Parameters
    ----------
    deadline : of `time.monotonic`; None waits for ever

    Raises
    ------
    WireError     If the other side has gone, or sends something else.
    TimeoutError  If the message is not complete at the deadline.
    """
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size, deadline))
    if length > _HEADER_BYTES:
        raise WireError("the header is too long")
    header = json.loads(_exactly(channel, length, deadline))
    described, extra = header.pop("arrays"), header.pop("extra")
    if not 0 <= sum(size for *_, size in described) <= _MOST_BYTES:
        raise WireError(f"the arrays have more than {_MOST_BYTES:,} bytes")
    if not 0 <= extra <= _MOST_EXTRA:
        raise WireError(f"the model has more than {_MOST_EXTRA:,} bytes")
    rest = _exactly(channel, extra, deadline)
    values: dict[str, Value] = {}
    entries = iter(described)
    for name, kind, shape, size in entries:
        if kind != _SEQUENCE:
            values[name] = _unpacked(name, kind, shape, _exactly(channel, size, deadline))
            continue
        parts = [
            _unpacked(name, kind, shape, _exactly(channel, size, deadline))
            for _, kind, shape, size in itertools.islice(entries, shape[0])
        ]
        if len(parts) != shape[0]:
            raise WireError(f"{name!r} does not have the tensors of its sequence")
        values[name] = parts
    return header, values, bytes(rest)


def _packed(name: str, array: np.ndarray) -> tuple[str, bytes]:
    """Name of the element type, and the elements."""
    if array.dtype.kind in "OSU":
        return _TEXTS, json.dumps(array.ravel().tolist()).encode()
    if array.dtype.name not in _DTYPES:
        raise WireError(f"{name!r} has type {array.dtype}, which cannot be handed over")
    return array.dtype.name, np.ascontiguousarray(array, array.dtype.newbyteorder("=")).tobytes()


def _unpacked(name: str, kind: str, shape: list[int], data: bytearray) -> np.ndarray:
    texts = kind == _TEXTS
    array = np.array(json.loads(bytes(data)), dtype=object) if texts else np.frombuffer(data, _DTYPES[kind])
    if array.size != math.prod(shape):
        raise WireError(f"{name!r} does not have the elements of its shape")
    return array.reshape(shape)


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytearray:
    """So many bytes, which arrays may keep and write to."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
        try:
            count = channel.recv_into(view)
        except TimeoutError:
            raise
        except OSError as error:
            raise WireError("the other side has gone") from error
        if not count:
            raise WireError("the other side has gone")
        view = view[count:]
    return data

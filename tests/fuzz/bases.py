"""Files that are right, from which the generators make ones that are not."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import struct
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from systolith.compiler.driver import compile_graph
from systolith.compiler.partition import partition_model
from systolith.reference.graph import QGraph
from systolith.spec.arch import PRESETS
from systolith.spec.image import IMAGE_VERSION, Image
from systolith.spec.manifest import StateInfo
from tests.compiler.qdq import QdqModel
from tests.graphs import CompactGraphs, random_graph
from tests.plans import by_way_of_the_host, cut_evenly

__all__ = ["Base", "bases", "dense_model", "npz", "pack", "unpack"]

_PREFIX = struct.Struct("<8sIIQQ32s")


@dataclass(frozen=True, slots=True)
class Base:
    """An image and inputs for it, each as it is and as a file."""

    image: Image
    arrays: dict[str, np.ndarray]
    file: bytes
    inputs: bytes


@functools.cache
def dense_model() -> bytes:
    """A quantised ONNX model with a node on each side of the core: Acosh, Gemm, Softmax."""
    m = QdqModel(0)
    m.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6]))
    x = m.quantise(m.node("Acosh", "x"), 0.01)
    y = m.quantise(m.node("Gemm", x, m.weights(5, 6), transB=1), 0.05)
    model: onnx.ModelProto = m.build(m.node("Softmax", y))
    return model.SerializeToString()


def _inputs(image: Image) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {port.name: (rng.random(port.shape) + 1).astype(port.dtype) for port in image.inputs}


def _compiled(graph: QGraph, arch: str) -> Image:
    return compile_graph(graph, PRESETS[arch])


@functools.cache
def bases() -> tuple[Base, ...]:
    """Small images: of random graphs for three cores, one with state, one with steps on the host, one with
    two on the core."""
    images = [
        _compiled(random_graph(6, 3, 6), "tiny"),
        _compiled(random_graph(12, 3, 6), "tiny"),
        _compiled(random_graph(13, 3, 6), "array8"),
        _compiled(CompactGraphs(3).build(2), "icebreaker"),
    ]
    first = images[0]
    state = StateInfo(name="memory", offset=first.data_bytes, initial="00ff" * 8)
    images.append(replace(first, data_bytes=first.data_bytes + 16, states=(state,)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(dense_model())
        images.append(compile_graph(partition_model(path), PRESETS["tiny"]))
    graph = random_graph(6, 4, 6)
    # What one core step gives goes past the host and by way of it, to the next.
    plan = cut_evenly(graph, 2)
    between = plan.steps[1].inputs[0]
    images.append(compile_graph(by_way_of_the_host(plan, 1, [between]), PRESETS["tiny"]))
    return tuple(Base(image, _inputs(image), image.to_bytes(), npz(_inputs(image))) for image in images)


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """A .npz file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Header, and program and models of host steps, of an image."""
    _, _, *lengths, _ = _PREFIX.unpack_from(data)
    parts, at = [], _PREFIX.size
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return json.loads(parts[0]), parts[1:]


def pack(header: object, parts: list[bytes]) -> bytes:
    """The inverse of `unpack`, for any header; the checksum is right."""
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = b"".join([body, *parts])
    checksum = hashlib.sha256(content).digest()
    return _PREFIX.pack(b"SYSLIMG\0", IMAGE_VERSION, len(body), *map(len, parts), checksum) + content

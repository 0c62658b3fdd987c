"""The one validator of images: each member of the header has a type and a range, and what must hold between
them and the program is checked, before anything is allocated or run. Standard library only.

`HEADER` is the table; `check_relations` holds what no single member can say. A checksum only notices damage:
a file that was made on purpose has the right one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from systolith.spec.arch import ArchConfig
from systolith.spec.boundary import BOUNDARY
from systolith.spec.isa import Isa, isa_for
from systolith.spec.manifest import IoTensor, LayerInfo, StateInfo
from systolith.spec.plan import CoreStep, HostNode, Port
from systolith.spec.schema import (
    Rule,
    SchemaError,
    integer,
    mapping,
    number,
    one_of,
    optional,
    sequence,
    text,
    variant,
)

__all__ = ["DATA_ALIGN", "HEADER", "NAME_CHARACTERS", "check_relations"]

#: Tensors and states of the DATA region, its size and the streams' entries are at multiples of this.
DATA_ALIGN = 16
#: A name of a tensor, node or layer.
NAME_CHARACTERS = 4096
_NAME = text(NAME_CHARACTERS)
_MAYBE_NAME = text(NAME_CHARACTERS, empty=True)

#: What CSRs and instructions address; counters of 63 bits, which every reader of JSON and NumPy can hold.
_WORD = integer(0, (1 << 32) - 1)
_COUNT = integer(0, (1 << 63) - 1)
#: Entries of a list; one of the program's instructions takes 16 bytes or more.
_MANY = 1 << 28
_FLOAT32_LEAST, _FLOAT32_MOST = 2.0**-149, (2.0 - 2.0**-23) * 2.0**127

_PORT_TYPES = (
    *("float16", "float32", "float64", "bool", "object", "sequence"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)

_IO: Rule = mapping(
    IoTensor,
    {
        "name": _NAME,
        "shape": sequence(integer(1, (1 << 31) - 1), 16),
        "dtype": one_of(*BOUNDARY),
        "scale": number(_FLOAT32_LEAST, _FLOAT32_MOST),
        "zero_point": integer(-128, 127),
        "offset": _WORD,
        "order": sequence(integer(0, 15), 16),
    },
)
_LAYER: Rule = mapping(
    LayerInfo,
    {
        "name": _NAME,
        "op": _NAME,
        "nodes": sequence(_MAYBE_NAME, _MANY),
        "tensor": _NAME,
        "macs": _COUNT,
        "cycles": _COUNT,
        "roofline_cycles": _COUNT,
        "limit": one_of("array", "weights", "memory", "vector"),
        "skipped_tiles": _COUNT,
        "skipped_macs": _COUNT,
    },
)
_STATE: Rule = mapping(StateInfo, {"name": _NAME, "offset": _WORD, "initial": text(1 << 33)})
_PORT: Rule = mapping(
    Port,
    {
        "name": _NAME,
        "shape": optional(sequence(integer(0, (1 << 31) - 1), 16)),
        "dtype": one_of(*_PORT_TYPES),
    },
)
_HOST_NODE: Rule = mapping(
    HostNode,
    {
        "name": _MAYBE_NAME,
        "op": _NAME,
        "reason": _MAYBE_NAME,
        "macs": optional(_COUNT),
        "elements": optional(_COUNT),
        "bytes": _COUNT,
    },
)
#: A host step; `model_bytes` is its share of the models behind the program.
_HOST_STEP: Rule = mapping(
    dict,
    {
        "model_bytes": integer(1, (1 << 31) - 1),
        "inputs": sequence(_NAME, _MANY),
        "outputs": sequence(_NAME, _MANY),
        "nodes": sequence(_HOST_NODE, _MANY),
    },
)
_CORE_STEP: Rule = mapping(
    CoreStep,
    {
        "entry": _WORD,
        "count": integer(1, _MANY),
        "cycles": _COUNT,
        "inputs": sequence(_NAME, _MANY),
        "outputs": sequence(_NAME, _MANY),
        "layers": sequence(_LAYER, _MANY),
        "owners": sequence(integer(-1, _MANY), _MANY),
    },
)

#: Every member of the header but architecture and digest, which are checked before the rest.
HEADER: Rule = mapping(
    dict,
    {
        "model": _MAYBE_NAME,
        "load_entry": _WORD,
        "load_count": integer(1, _MANY),
        "data_bytes": integer(DATA_ALIGN, (1 << 32) - 1),
        "inputs": sequence(_PORT, _MANY),
        "outputs": sequence(_PORT, _MANY),
        "tensors": sequence(_IO, _MANY),
        "steps": sequence(variant("where", {"core": _CORE_STEP, "host": _HOST_STEP}), _MANY),
        "states": sequence(_STATE, _MANY),
    },
)


def check_relations(arch: ArchConfig, header: dict[str, Any], program: bytes, models: bytes) -> None:
    """Refuse a header, as `HEADER` gives it, that contradicts itself, the program or the models of the host.

    Raises
    ------
    SchemaError   Naming the member.
    """
    isa = isa_for(arch)
    _check_stream("load_", header["load_entry"], header["load_count"], program, isa)
    _check_data(header)
    for index, step in enumerate(header["steps"]):
        if isinstance(step, CoreStep):
            _check_core(f"steps[{index}].", step, program, isa)
    given = sum(step["model_bytes"] for step in header["steps"] if not isinstance(step, CoreStep))
    if given != len(models):
        raise SchemaError(
            f"steps describes {given} bytes of models for the host, and the file holds {len(models)}"
        )
    _check_names(header)


def _check_core(path: str, step: CoreStep, program: bytes, isa: Isa) -> None:
    _check_stream(path, step.entry, step.count, program, isa)
    if len(step.owners) != step.count:
        raise SchemaError(f"{path}owners has {len(step.owners)} entries for {step.count} instructions")
    if max(step.owners, default=-1) >= len(step.layers):
        raise SchemaError(f"{path}owners names layer {max(step.owners)} of {len(step.layers)}")
    for index, layer in enumerate(step.layers):
        if layer.skipped_macs > layer.macs:
            raise SchemaError(f"{path}layers[{index}].skipped_macs is more than its macs")


def _check_stream(path: str, entry: int, count: int, program: bytes, isa: Isa) -> None:
    """Every word lies in the program; the last one, and no other, is HALT. Other words are decoded later."""
    size = isa.word_bytes
    end = entry + count * size
    if entry % DATA_ALIGN:
        raise SchemaError(f"{path}entry must be a multiple of {DATA_ALIGN}, not {entry}")
    if end > len(program):
        raise SchemaError(
            f"{path}count is {count}, and the program ends before that: it has {len(program)} bytes"
        )
    opcodes = (1 << isa.header[0].bits) - 1
    halt = isa.by_mnemonic["HALT"].opcode
    firsts = program[entry:end:size]
    halts = [index for index, first in enumerate(firsts) if first & opcodes == halt]
    if halts != [count - 1]:
        raise SchemaError(
            f"{path}count is {count}, and HALT is not the last of these instructions and only there"
        )


def _check_data(header: dict[str, Any]) -> None:
    """What the host reads and writes lies in the DATA region, at whole beats, under names of its own."""
    size = header["data_bytes"]
    if size % DATA_ALIGN:
        raise SchemaError(f"data_bytes must be a multiple of {DATA_ALIGN}, not {size}")
    for index, io in enumerate(header["tensors"]):
        _check_extent(f"tensors[{index}]", io.offset, math.prod(io.shape), size)
        if sorted(io.order) != list(range(len(io.shape))):
            raise SchemaError(
                f"tensors[{index}].order is no permutation of {len(io.shape)} axes: {list(io.order)}"
            )
    for index, state in enumerate(header["states"]):
        try:
            initial = bytes.fromhex(state.initial)
        except ValueError:
            initial = b""
        # Spaces, which fromhex accepts, would make the text longer than twice the bytes.
        if not initial or 2 * len(initial) != len(state.initial):
            raise SchemaError(f"states[{index}].initial is no hexadecimal text of whole bytes")
        _check_extent(f"states[{index}]", state.offset, len(initial), size)
    for key in ("inputs", "outputs", "tensors", "states"):
        _check_unique(key, [item.name for item in header[key]])


def _check_extent(path: str, offset: int, count: int, size: int) -> None:
    if offset % DATA_ALIGN:
        raise SchemaError(f"{path}.offset must be a multiple of {DATA_ALIGN}, not {offset}")
    if offset + count > size:
        raise SchemaError(f"{path} takes {count} bytes from {offset} on, and data_bytes is {size}")


def _check_unique(path: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise SchemaError(f"{path} holds the name {repeated!r} twice")


def _check_names(header: dict[str, Any]) -> None:
    """Steps read what is there, and give what was not; what core steps touch is described."""
    ports = {port.name: port for port in header["inputs"]}
    tensors = {io.name: io for io in header["tensors"]}
    if any(port.shape is None for port in header["inputs"]):
        raise SchemaError("inputs holds an input of unknown shape")
    if any(port.dtype == "sequence" for port in header["inputs"]):
        raise SchemaError("inputs holds an input that is a sequence")
    known = set(ports)
    if not header["steps"]:
        raise SchemaError("steps is empty")
    for index, step in enumerate(header["steps"]):
        core = isinstance(step, CoreStep)
        inputs, outputs = (
            (step.inputs, step.outputs) if isinstance(step, CoreStep) else (step["inputs"], step["outputs"])
        )
        for key, names in (("inputs", inputs), ("outputs", outputs)):
            _check_unique(f"steps[{index}].{key}", names)
            for name in names:
                if core and name not in tensors:
                    raise SchemaError(f"steps[{index}].{key} holds {name!r}, and tensors does not")
        for name in inputs:
            if name not in known:
                raise SchemaError(f"steps[{index}].inputs holds {name!r}, which nothing before it gives")
            if (
                core
                and name in ports
                and (ports[name].shape, ports[name].dtype)
                != (
                    tensors[name].shape,
                    tensors[name].dtype,
                )
            ):
                raise SchemaError(f"inputs and tensors describe {name!r} differently")
        # A core step may hand on what it reads.
        for name in outputs:
            if name in known and not (core and name in inputs):
                raise SchemaError(f"steps[{index}].outputs holds {name!r}, which is there before it")
        known.update(outputs)
    for port in header["outputs"]:
        if port.name not in known:
            raise SchemaError(f"outputs holds {port.name!r}, which no step gives")

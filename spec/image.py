"""The program image (`.sysl`): one checksummed file with the streams, the constants and the manifest.
Standard library only.

Layout, little endian: 8 bytes magic, uint32 format version, uint32 length of the header, uint64 lengths of
the program and of the host segments before and after the core, 32 bytes SHA-256 of everything after them,
then the header (canonical JSON), the program and the two segments. The program is what is copied to the
PROGRAM region: load stream, run stream, constants. A segment is an ONNX model, of length 0 where there is
none. Equal inputs give equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import struct
from dataclasses import dataclass
from pathlib import Path

from systolith.spec import outputs
from systolith.spec.arch import ArchConfig, ArchError
from systolith.spec.errors import SystolithError
from systolith.spec.isa import Instr, IsaError, isa_for
from systolith.spec.notebook import html_table
from systolith.spec.regs import core_digest
from systolith.spec.segments import HostNode, HostPart, Port

__all__ = ["IMAGE_VERSION", "Image", "ImageError", "IoTensor", "LayerInfo", "StateInfo"]

_MAGIC = b"SYSLIMG\0"
IMAGE_VERSION = 4
#: Magic and version stay where they are in every version, so that each can name the other.
_START = struct.Struct("<8sI")
_PREFIX = struct.Struct("<8sIIQQQ32s")
#: The lists of a `HostPart` and what each is made of.
_HOST_PARTS = {"inputs": Port, "outputs": Port, "nodes": HostNode}


class ImageError(SystolithError, ValueError):
    """A file that is not a usable image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IoTensor:
    """An input, output or state tensor as the host sees it.

    Parameters
    ----------
    name, dtype, shape : the model's own; dtype is a NumPy name: 'float32', 'int8' or 'uint8'
    scale, zero_point  : of the int8 value on the core: real = scale * (q - zero_point)
    offset             : first byte in the DATA region
    order              : memory order of the axes, outermost first; the tensor is stored densely as int8 in
                         that order. A uint8 value is stored minus 128; a float32 value is quantised by the
                         host.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int
    offset: int
    order: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes that the tensor occupies in the DATA region."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class StateInfo:
    """State that a run leaves for the next one, in the DATA region.

    Parameters
    ----------
    name    : of the node that keeps it
    offset  : of its first byte in the DATA region
    initial : its bytes before the first run, in hexadecimal
    """

    name: str
    offset: int
    initial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """One layer of the program: which instructions of the run stream it owns, and what it costs at least.

    Parameters
    ----------
    name, op : the node's name and operator in the model (the first of those fused into it)
    nodes    : all nodes of the model that this layer computes
    tensor   : name of its result in the quantised graph
    macs     : multiply-accumulates of one inference, as the model states them
    roofline_cycles : the larger of (macs - skipped_macs) / (R*C) and compulsory bytes / bus bytes
    limit    : 'array', 'weights', 'memory' or 'vector': what the cycle model says holds it up
    cycles   : the cycle model's estimate
    skipped_tiles, skipped_macs : tiles of the weights that are all zero and left out, and their share of
                                  `macs`
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    tensor: str
    macs: int
    cycles: int
    roofline_cycles: int
    limit: str
    skipped_tiles: int = 0
    skipped_macs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A compiled program.

    Parameters
    ----------
    arch        : the architecture it was compiled for
    model       : name of the model
    program     : bytes of the PROGRAM region
    load_entry, load_count : offset and number of instructions of the load stream
    run_entry, run_count   : the same of the run stream
    data_bytes  : size of the DATA region
    inputs, outputs : in the model's order
    layers      : in execution order
    owners      : for each instruction of the run stream, the index of its layer, or -1 (transfers of inputs
                  and outputs, HALT)
    cycles      : the cycle model's estimate for the run stream
    host        : what runs before and after the core, or None where the core runs the whole model
    states      : what a run leaves for the next one
    """

    arch: ArchConfig
    model: str
    program: bytes
    load_entry: int
    load_count: int
    run_entry: int
    run_count: int
    data_bytes: int
    inputs: tuple[IoTensor, ...]
    outputs: tuple[IoTensor, ...]
    layers: tuple[LayerInfo, ...]
    owners: tuple[int, ...]
    cycles: int
    host: HostPart | None = None
    states: tuple[StateInfo, ...] = ()

    def __repr__(self) -> str:
        return f"<Image {self._headline()}>"

    def _repr_html_(self) -> str:
        rows = [
            (layer.name, layer.op, f"{layer.macs:,}", f"{layer.cycles:,}", layer.limit)
            for layer in self.layers
        ]
        return html_table(self._headline(), ("layer", "op", "MACs", "cycles (estimated)", "limit"), rows)

    def _headline(self) -> str:
        where = "" if self.host is None else f", {len(self.host.nodes)} nodes on the host"
        return (
            f"{self.model[:48]!r} for {self.arch.name}: {len(self.layers)} layers{where}, {self.cycles:,} "
            f"cycles "
            f"(estimated), {len(self.program):,} bytes of program"
        )

    @property
    def digest(self) -> bytes:
        """Digest of architecture and instruction set, as in the CSRs."""
        return core_digest(self.arch)

    def stream(self, which: str) -> tuple[tuple[int, Instr], ...]:
        """The instructions of stream 'load' or 'run', each with its offset in the PROGRAM region.

        Raises
        ------
        IsaError   If a word does not decode.
        """
        entry, count = (
            (self.load_entry, self.load_count) if which == "load" else (self.run_entry, self.run_count)
        )
        isa = isa_for(self.arch)
        return tuple(
            (
                entry + i * isa.word_bytes,
                isa.decode(self.program[entry + i * isa.word_bytes : entry + (i + 1) * isa.word_bytes]),
            )
            for i in range(count)
        )

    def to_bytes(self) -> bytes:
        """The file's contents."""
        header = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("program", "arch", "host")
        }
        header["arch"] = self.arch.to_dict()
        header["digest"] = self.digest.hex()
        for key in ("inputs", "outputs", "layers", "states"):
            header[key] = [dataclasses.asdict(item) for item in header[key]]
        before = after = b""
        header["host"] = None
        if self.host is not None:
            before, after = self.host.before, self.host.after
            header["host"] = {
                key: [dataclasses.asdict(item) for item in getattr(self.host, key)] for key in _HOST_PARTS
            }
        body = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        content = body + self.program + before + after
        checksum = hashlib.sha256(content).digest()
        return (
            _PREFIX.pack(
                _MAGIC, IMAGE_VERSION, len(body), len(self.program), len(before), len(after), checksum
            )
            + content
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Image:
        """Parse a file's contents.

        Raises
        ------
        ImageError   If it is not an image, is of another version, is truncated or damaged, or was compiled
                     for another revision of the instruction set.
        """
        if len(data) < _START.size or not data.startswith(_MAGIC):
            raise ImageError("this is not a Systolith image")
        _, version = _START.unpack_from(data)
        if version != IMAGE_VERSION:
            raise ImageError(
                f"the image has format version {version}, this is version {IMAGE_VERSION}: compile the "
                f"model again"
            )
        if len(data) < _PREFIX.size:
            raise ImageError(f"the image is truncated: {len(data)} bytes")
        *_, header_bytes, program_bytes, before_bytes, after_bytes, checksum = _PREFIX.unpack_from(data)
        ends = list(
            itertools.accumulate((_PREFIX.size, header_bytes, program_bytes, before_bytes, after_bytes))
        )
        if len(data) != ends[-1]:
            raise ImageError(
                f"the image is truncated or has trailing bytes: {len(data)} instead of {ends[-1]}"
            )
        if hashlib.sha256(data[_PREFIX.size :]).digest() != checksum:
            raise ImageError("the image is damaged: its checksum does not match")
        body, program, before, after = (data[begin:end] for begin, end in itertools.pairwise(ends))
        try:
            header = json.loads(body)
            digest = header.pop("digest")
            header["arch"] = ArchConfig.from_dict(header["arch"])
            for key, kind in (
                ("inputs", IoTensor),
                ("outputs", IoTensor),
                ("layers", LayerInfo),
                ("states", StateInfo),
            ):
                header[key] = _items(kind, header[key])
            header["owners"] = tuple(header["owners"])
            if header["host"] is not None:
                parts = {key: _items(kind, header["host"][key]) for key, kind in _HOST_PARTS.items()}
                header["host"] = HostPart(before=before, after=after, **parts)
            elif before or after:
                raise ValueError("it does not describe the host segments")
            image = cls(program=program, **header)
        except (ArchError, IsaError, KeyError, TypeError, ValueError) as error:
            raise ImageError(f"the image's header is not valid: {error}") from error
        if image.digest.hex() != digest:
            raise ImageError(
                "the image was compiled for another revision of the instruction set: compile the model again"
            )
        return image

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises
        ------
        OutputError   If it cannot be written; what was there stays.
        """
        outputs.write(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Image:
        """Read a file.

        Raises
        ------
        ImageError   As `from_bytes`, or if the file cannot be read.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ImageError(f"cannot read {str(path)!r}: {error.strerror}") from error
        return cls.from_bytes(data)


def _items(kind: type, values: list[dict]) -> tuple:
    """Objects of a dataclass from the JSON of `dataclasses.asdict`, lists as tuples."""
    return tuple(
        kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in item.items()})
        for item in values
    )

"""The program image (`.sysl`): one checksummed file with the streams, the constants and the manifest.
Standard library only.

Layout, little endian: 8 bytes magic, uint32 format version, uint32 length of the header, uint64 lengths of
the program and of the models of all host steps together, 32 bytes SHA-256 of everything after them, then the
header (canonical JSON), the program and the models, in the order of the steps. The program is what is copied
to the PROGRAM region: constants, load stream, and a run stream for each core step. A host step's model is
ONNX; the step says in the header how many bytes it has. Equal inputs give equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from systolith.spec import outputs
from systolith.spec.arch import ArchConfig, ArchError
from systolith.spec.errors import SystolithError
from systolith.spec.image_check import HEADER, check_relations
from systolith.spec.isa import Instr, isa_for
from systolith.spec.manifest import IoTensor, LayerInfo, StateInfo
from systolith.spec.notebook import html_table
from systolith.spec.plan import CoreStep, HostNode, HostStep, Port
from systolith.spec.printable import excerpt, printable
from systolith.spec.regs import core_digest
from systolith.spec.schema import SchemaError

__all__ = ["IMAGE_VERSION", "Image", "ImageError"]

_MAGIC = b"SYSLIMG\0"
IMAGE_VERSION = 5
#: Magic and version stay where they are in every version, so that each can name the other.
_START = struct.Struct("<8sI")
_PREFIX = struct.Struct("<8sIIQQ32s")
#: Longest file that is read: programs and data are addressed with 32 bits.
_MOST_BYTES = 1 << 31
#: What is read at a time, so that a file that claims to be long costs no more than it has.
_PIECE_BYTES = 1 << 24


class ImageError(SystolithError, ValueError):
    """A file that is not a usable image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A compiled program.

    Parameters
    ----------
    arch        : the architecture it was compiled for
    model       : name of the model
    program     : bytes of the PROGRAM region
    load_entry, load_count : offset and number of instructions of the load stream
    data_bytes  : size of the DATA region
    inputs, outputs : those of the model, in its order
    tensors     : what the core steps read and give, in the DATA region
    steps       : in execution order
    states      : what a run leaves for the next one
    """

    arch: ArchConfig
    model: str
    program: bytes
    load_entry: int
    load_count: int
    data_bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tensors: tuple[IoTensor, ...]
    steps: tuple[CoreStep | HostStep, ...]
    states: tuple[StateInfo, ...] = ()

    @property
    def cores(self) -> tuple[CoreStep, ...]:
        """The steps of the core."""
        return tuple(step for step in self.steps if isinstance(step, CoreStep))

    @property
    def core(self) -> CoreStep:
        """The step of the core, of an image that has exactly one.

        Raises
        ------
        ValueError   If it has none, or several.
        """
        (step,) = self.cores
        return step

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers of all core steps, in execution order."""
        return tuple(layer for step in self.cores for layer in step.layers)

    @property
    def cycles(self) -> int:
        """The cycle model's estimate for all run streams together."""
        return sum(step.cycles for step in self.cores)

    @property
    def host_nodes(self) -> tuple[HostNode, ...]:
        """The nodes of all host steps, in execution order."""
        return tuple(node for step in self.steps if isinstance(step, HostStep) for node in step.nodes)

    @property
    def formats(self) -> dict[str, IoTensor]:
        """`tensors` by name."""
        return {io.name: io for io in self.tensors}

    def __repr__(self) -> str:
        return f"<Image {self._headline()}>"

    def _repr_html_(self) -> str:
        rows = [
            (layer.name, layer.op, f"{layer.macs:,}", f"{layer.cycles:,}", layer.limit)
            for layer in self.layers
        ]
        return html_table(self._headline(), ("layer", "op", "MACs", "cycles (estimated)", "limit"), rows)

    def _headline(self) -> str:
        where = f", {len(self.host_nodes)} nodes on the host" if len(self.cores) < len(self.steps) else ""
        return (
            f"{excerpt(self.model)} for {self.arch.name}: {len(self.layers)} layers{where}, {self.cycles:,} "
            f"cycles (estimated), {len(self.program):,} bytes of program"
        )

    @property
    def digest(self) -> bytes:
        """Digest of architecture and instruction set, as in the CSRs."""
        return core_digest(self.arch)

    def stream(self, which: str, core: int = 0) -> tuple[tuple[int, Instr], ...]:
        """The instructions of stream 'load', or 'run' of a core step (counted from 0), each with its offset
        in the PROGRAM region.

        Raises
        ------
        IsaError   If a word does not decode.
        """
        if which == "load":
            entry, count = self.load_entry, self.load_count
        else:
            entry, count = self.cores[core].entry, self.cores[core].count
        isa = isa_for(self.arch)
        return tuple(
            (
                entry + i * isa.word_bytes,
                isa.decode(self.program[entry + i * isa.word_bytes : entry + (i + 1) * isa.word_bytes]),
            )
            for i in range(count)
        )

    def to_bytes(self) -> bytes:
        """The file's contents.

        Raises
        ------
        ImageError   If `from_bytes` would refuse them, for a model with names that nobody can print, say.
        """
        header = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("program", "arch", "steps")
        }
        header["arch"] = self.arch.to_dict()
        header["digest"] = self.digest.hex()
        for key in ("inputs", "outputs", "tensors", "states"):
            header[key] = [dataclasses.asdict(item) for item in header[key]]
        header["steps"] = [_described(step) for step in self.steps]
        models = b"".join(step.model for step in self.steps if isinstance(step, HostStep))
        body = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        _parse(body, self.program, models)
        content = body + self.program + models
        checksum = hashlib.sha256(content).digest()
        return (
            _PREFIX.pack(_MAGIC, IMAGE_VERSION, len(body), len(self.program), len(models), checksum) + content
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Image:
        """Parse a file's contents.

        Raises
        ------
        ImageError   If it is not an image, is of another version, is truncated or damaged, was compiled for
                     another revision of the instruction set, or its header breaks a rule of `image_check`.
        """
        ends = _ends(data)
        if len(data) != ends[-1]:
            raise ImageError(
                f"the image is truncated or has trailing bytes: {len(data)} instead of {ends[-1]}"
            )
        if hashlib.sha256(data[_PREFIX.size :]).digest() != _PREFIX.unpack_from(data)[-1]:
            raise ImageError("the image is damaged: its checksum does not match")
        return cls(**_parse(*(data[begin:end] for begin, end in itertools.pairwise(ends))))

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises
        ------
        OutputError   If it cannot be written; what was there stays.
        """
        outputs.write(path, self.to_bytes())

    @staticmethod
    def is_image(path: str | Path) -> bool:
        """Whether a file begins as an image does, whatever its name.

        Raises
        ------
        ImageError   If the file cannot be read.
        """
        try:
            with open(path, "rb") as file:
                return file.read(len(_MAGIC)) == _MAGIC
        except OSError as error:
            raise ImageError(f"cannot read {str(path)!r}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | Path) -> Image:
        """Read a file.

        Raises
        ------
        ImageError   As `from_bytes`, or if the file cannot be read.
        """
        try:
            with open(path, "rb") as file:
                pieces = [file.read(_PREFIX.size)]
                # One byte more than there should be, so that trailing ones are noticed.
                left = _ends(pieces[0])[-1] + 1 - len(pieces[0])
                while left and (piece := file.read(min(_PIECE_BYTES, left))):
                    pieces.append(piece)
                    left -= len(piece)
            return cls.from_bytes(b"".join(pieces))
        except OSError as error:
            raise ImageError(f"cannot read {str(path)!r}: {error.strerror}") from error
        except ImageError as error:
            raise ImageError(f"{str(path)!r}: {error}") from error


def _described(step: CoreStep | HostStep) -> dict[str, Any]:
    """What the header says of a step."""
    if isinstance(step, CoreStep):
        return {"where": "core", **dataclasses.asdict(step)}
    members = dataclasses.asdict(step)
    return {"where": "host", "model_bytes": len(members.pop("model")), **members}


def _steps(described: Iterable[CoreStep | dict[str, Any]], models: bytes) -> Iterator[CoreStep | HostStep]:
    """The steps of a header, those of the host with their models."""
    at = 0
    for step in described:
        if isinstance(step, CoreStep):
            yield step
        else:
            size = step.pop("model_bytes")
            yield HostStep(model=models[at : at + size], **step)
            at += size


def _ends(data: bytes) -> list[int]:
    """Where header, program and models begin and end in a file of which `data` is the beginning.

    Raises
    ------
    ImageError   If it is not the beginning of an image, or of one that is longer than any.
    """
    if len(data) < _START.size or not data.startswith(_MAGIC):
        raise ImageError("this is not a Systolith image: give a file that systolith compile made")
    _, version = _START.unpack_from(data)
    if version != IMAGE_VERSION:
        raise ImageError(
            f"the image has format version {version}, this is version {IMAGE_VERSION}: compile the model "
            "again"
        )
    if len(data) < _PREFIX.size:
        raise ImageError(f"the image is truncated: {len(data)} bytes")
    ends = list(itertools.accumulate((_PREFIX.size, *_PREFIX.unpack_from(data)[2:5])))
    if ends[-1] > _MOST_BYTES:
        raise ImageError(f"the image has {ends[-1]} bytes, more than the {_MOST_BYTES} that one may have")
    return ends


def _parse(body: bytes, program: bytes, models: bytes) -> dict[str, Any]:
    """The members of an `Image`, from the three parts of a file.

    Raises
    ------
    ImageError   As `Image.from_bytes`.
    """
    try:
        header = json.loads(body)
        if type(header) is not dict:
            raise SchemaError(f"it must be an object, not {excerpt(header)}")
        arch, digest = header.pop("arch", None), header.pop("digest", None)
        if type(arch) is not dict:
            raise SchemaError(f"arch must be an object, not {excerpt(arch)}")
        arch = ArchConfig.from_dict(arch)
        if core_digest(arch).hex() != digest:
            raise ImageError(
                "the image was compiled for another revision of the instruction set: compile the model again"
            )
        fields: dict[str, Any] = HEADER(header, "")
        check_relations(arch, fields, program, models)
    # The JSON may be nested deeper than the parser goes.
    except (ArchError, SchemaError, ValueError, RecursionError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"the image's header is not valid: {printable(str(error))}: compile the model again"
        ) from error
    fields["steps"] = tuple(_steps(fields["steps"], models))
    return {"arch": arch, "program": program, **fields}

"""Cases of .npz and .npy files: archives and headers that lie."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from collections.abc import Iterator

import numpy as np

from tests.fuzz.bases import bases, npz
from tests.fuzz.kit import Case
from tests.fuzz.values import NAMES, edit_bytes

__all__ = ["QUICK", "cases"]

QUICK = 200
_DTYPES = (
    "<f4",
    ">f4",
    "<f8",
    "|i1",
    "|u1",
    "<i8",
    "|b1",
    "<c8",
    "|O",
    "|V4",
    "<U3",
    "|S1",
    "<M8[s]",
    "nonsense",
    "",
)
_SHAPES = (
    "()",
    "(0,)",
    "(1,)",
    "(1099511627776,)",
    "(2147483648, 2147483648)",
    "(-1,)",
    "(1, -1)",
    "(True,)",
    "(1.0,)",
    "1",
    "None",
    "[1]",
    "(" + "1," * 3000 + ")",
    "(" + "9" * 4000 + ",)",
    "(" * 300,
    "('1',)",
)
_FILES = (
    "x.npz",
    "x.npz",
    "x.npz",
    "x.npy",
    "x",
    "\x1b[31mx.npz",
    "\N{RIGHT-TO-LEFT OVERRIDE}x.npz",
    "x\udcff.npz",
)


def cases(rng: random.Random) -> Iterator[Case]:
    """Files of arrays for the images of `bases`, run on the machine."""
    while True:
        base = rng.choice(bases())
        arrays = dict(base.arrays)
        what, data = rng.choice([_bytes, _bytes, _members, _members, _zeros, _values, _alone, _structure])(
            rng, arrays
        )
        file = rng.choice(_FILES)
        yield Case(
            name=what,
            files={"m.sysl": base.file, file: data},
            argv=("run", "m.sysl", "--inputs", file, "--on", "machine"),
        )


def _npy(shape: str, descr: str, body: bytes, version: bytes = b"\1\0") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode("latin1", "replace")
    length = len(text).to_bytes(2 if version == b"\1\0" else 4, "little", signed=False)
    return b"\x93NUMPY" + version + length + text + body


def _array(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def _archive(members: list[tuple[str, bytes]], method: int) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as file:
        warnings.simplefilter("ignore")
        for name, data in members:
            file.writestr(name, data)
    return stream.getvalue()


def _bytes(rng: random.Random, arrays: dict[str, np.ndarray]) -> tuple[str, bytes]:
    """Bytes of a right file changed."""
    members = [(name + ".npy", _array(array)) for name, array in arrays.items()]
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    return "bytes", edit_bytes(rng, _archive(members, method), 3)


def _members(rng: random.Random, arrays: dict[str, np.ndarray]) -> tuple[str, bytes]:
    """Members with headers that lie, other names, twice, or of other methods."""
    members = []
    for name, array in arrays.items():
        shape, descr = repr(array.shape), array.dtype.str
        if rng.random() < 0.5:
            shape = rng.choice(_SHAPES)
        if rng.random() < 0.3:
            descr = rng.choice(_DTYPES)
        data = rng.choice(
            [_array(array), _npy(shape, descr, array.tobytes(), rng.choice([b"\1\0", b"\2\0", b"\3\0"]))]
        )
        members.append((name + rng.choice([".npy"] * 6 + ["", ".txt", ".npy.npy"]), data))
    if rng.random() < 0.3:
        name = rng.choice(NAMES).replace("\0", "").encode("utf-8", "replace").decode()
        members.append((name + ".npy", rng.choice([b"", b"\x93NUMPY", members[0][1]])))
    if rng.random() < 0.15:
        members.append(members[0])
    rng.shuffle(members)
    methods = [
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_BZIP2,
        zipfile.ZIP_LZMA,
    ]
    return "members", _archive(members, rng.choice(methods))


def _zeros(rng: random.Random, arrays: dict[str, np.ndarray]) -> tuple[str, bytes]:
    """Many zeros in few bytes, as values or as a header."""
    name, count = next(iter(arrays)), 1 << rng.randint(16, 23)
    if rng.random() < 0.5:
        return "bomb", _archive([(name + ".npy", _array(np.zeros(count, np.int8)))], zipfile.ZIP_DEFLATED)
    header = b"\x93NUMPY\2\0" + count.to_bytes(4, "little") + b" " * count
    return "long header", _archive([(name + ".npy", header)], zipfile.ZIP_DEFLATED)


def _values(rng: random.Random, arrays: dict[str, np.ndarray]) -> tuple[str, bytes]:
    """Right files of arrays that the model does not take, or hardly."""
    name = rng.choice(list(arrays))
    array = arrays[name]
    if rng.random() < 0.5 and array.dtype.kind == "f":
        array = array.copy()
        array.flat[0] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0])
        arrays[name] = array
    else:
        arrays[name] = rng.choice(
            [
                array.astype(np.float64),
                array.astype(">f4"),
                array.T,
                array[None],
                array.ravel(),
                array[..., :0],
            ]
        )
    return "values", npz(arrays)


def _alone(rng: random.Random, arrays: dict[str, np.ndarray]) -> tuple[str, bytes]:
    """A .npy file."""
    data = _array(next(iter(arrays.values())))
    return "npy", data if rng.random() < 0.5 else edit_bytes(rng, data, 2)


def _structure(rng: random.Random, arrays: dict[str, np.ndarray]) -> tuple[str, bytes]:
    """Fields of the archive's directory and local headers."""
    members = [(name + ".npy", _array(array)) for name, array in arrays.items()]
    data = bytearray(_archive(members, zipfile.ZIP_DEFLATED))
    directory, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    for _ in range(rng.choice([1, 1, 2])):
        start, width = rng.choice([(directory, 46), (0, 30), (end, 22)])
        at = start + 4 + rng.randrange(width - 8)
        value = rng.choice([0, 1, 0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, 99, rng.randrange(1 << 32)])
        struct.pack_into(rng.choice(["<I", "<H"]), data, at, value & 0xFFFF) if rng.random() < 0.5 else (
            struct.pack_into("<I", data, at, value)
        )
    return "structure", bytes(data)

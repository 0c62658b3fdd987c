"""Arrays in a .npz or .npy file: names, shapes, types and sizes are read first, values only when asked for.

What a header claims is held against what the file says it contains before anything is inflated or allocated,
so a file costs no more memory than the arrays that a model takes.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from systolith.errors import ApiError
from systolith.spec.printable import excerpt

__all__ = ["Header", "StoredArrays"]

#: All arrays of a file together; a model's inputs are far smaller, calibration data may be thinned.
_MOST_BYTES = 1 << 30
_MOST_ARRAYS = 4096
#: NumPy writes headers of 128 bytes; it refuses to parse longer ones than this.
_HEADER_BYTES = 10_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
_SUFFIX = ".npy"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of one array.

    Parameters
    ----------
    shape, dtype : those of the array
    start        : bytes before its first element
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


class StoredArrays(Mapping[str, np.ndarray]):
    """The arrays of a file by name; each is read when it is first asked for, and kept.

    A .npy file holds one array without a name: `bind` gives it that of the only input of a model.

    Parameters
    ----------
    path : str | Path
    what : str          role of the file, for messages

    Members
    -------
    headers : by name, what the file says of each array

    Raises
    ------
    ApiError   If it cannot be read, holds anything but plain arrays, contradicts itself or is too large.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self._path, self._what = Path(path), what
        self._arrays: dict[str, np.ndarray] = {}
        self._single: Header | None = None
        self.headers: dict[str, Header] = {}
        with self._open() as file:
            if file.read(6) == b"\x93NUMPY":
                self._single = self._header(file, os.fstat(file.fileno()).st_size, "")
            else:
                self._read_directory(file)
        total = sum(header.bytes for header in (*self.headers.values(), *filter(None, [self._single])))
        if total > _MOST_BYTES:
            raise self._error(
                f"holds {total:,} bytes of arrays, more than the {_MOST_BYTES:,} that are taken: give fewer "
                "samples"
            )

    def bind(self, names: Mapping[str, object]) -> None:
        """Give the array of a .npy file the name of the only input.

        Raises
        ------
        ApiError   If there are several.
        """
        if self._single is not None and len(names) == 1:
            self.headers, self._single = {next(iter(names)): self._single}, None

    def __iter__(self) -> Iterator[str]:
        if self._single is not None:
            raise self._error("is a single array: save it with numpy.savez, one array per input name")
        return iter(self.headers)

    def __contains__(self, name: object) -> bool:
        # That of `Mapping` would read the array.
        return name in self.headers

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            header = self.headers[name]
            with self._open() as file:
                if file.read(6) == b"\x93NUMPY":
                    self._arrays[name] = self._values(file, header, name)
                else:
                    with zipfile.ZipFile(file) as archive, archive.open(name + _SUFFIX) as member:
                        self._arrays[name] = self._values(member, header, name)
        return self._arrays[name]

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        """The file; whatever NumPy, zlib and zipfile raise on damaged bytes becomes a sentence about it."""
        try:
            with open(self._path, "rb") as file:
                yield file
        except ApiError:
            raise
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror or error}") from error
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise self._error(f"is no .npz file of plain arrays: {reason}") from error

    def _error(self, text: str) -> ApiError:
        return ApiError(f"{self._what} {str(self._path)!r} {text}")

    def _read_directory(self, file: IO[bytes]) -> None:
        """The headers of all members of a .npz file."""
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MOST_ARRAYS:
                raise self._error(f"holds {len(members)} arrays, more than the {_MOST_ARRAYS} that are taken")
            for member in members:
                name = member.filename.removesuffix(_SUFFIX)
                if not member.filename.endswith(_SUFFIX):
                    raise self._error(f"holds {excerpt(name)}, which is no array: save it with numpy.savez")
                if name in self.headers:
                    raise self._error(f"holds the array {excerpt(name)} twice: save it with numpy.savez")
                if member.compress_type not in _METHODS or member.flag_bits & _ENCRYPTED:
                    raise self._error(
                        f"holds the array {excerpt(name)} encrypted, or compressed by method "
                        f"{member.compress_type}: save it with numpy.savez or numpy.savez_compressed"
                    )
                with archive.open(member) as stream:
                    self.headers[name] = self._header(stream, member.file_size, name)

    def _header(self, stream: IO[bytes], size: int, name: str) -> Header:
        """The header at the beginning of a stream of `size` bytes, which it must account for."""
        stream.seek(0)
        start = stream.read(12)
        version, count = start[6:8], 2 if start[6:7] == b"\1" else 4
        length = 8 + count + int.from_bytes(start[8 : 8 + count], "little")
        if version not in (b"\1\0", b"\2\0") or length > _HEADER_BYTES:
            raise self._error(f"holds {excerpt(name)}, which is no array of format version 1 or 2")
        text = io.BytesIO(start + stream.read(max(0, length - len(start))))
        np.lib.format.read_magic(text)
        reader = (
            np.lib.format.read_array_header_1_0 if version == b"\1\0" else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = reader(text)
        if dtype.kind not in "biufcSU" or any(type(extent) is not int or extent < 0 for extent in shape):
            raise self._error(f"holds {excerpt(name)}, which is no array of numbers")
        header = Header(shape, dtype, length)
        if length + header.bytes != size:
            raise self._error(
                f"holds {excerpt(name)}, which claims {excerpt(length + header.bytes)} bytes and has {size}: "
                "save it again with numpy.savez"
            )
        return header

    def _values(self, stream: IO[bytes], header: Header, name: str) -> np.ndarray:
        """The array of which the header was read; the file may have changed since, so it is compared."""
        stream.seek(0)
        if self._header(stream, header.start + header.bytes, name) != header:
            raise self._error("changed while it was read")
        stream.seek(0)
        array = np.lib.format.read_array(stream, allow_pickle=False)
        # A checksum is compared when the end is seen.
        stream.read(1)
        return array

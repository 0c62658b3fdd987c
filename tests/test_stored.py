"""Files of arrays: headers first, and one sentence for each kind of damage, at no cost in memory."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from systolith.arrays import check_inputs, load_arrays
from systolith.errors import ApiError
from systolith.host.inputs import InputError
from systolith.stored import StoredArrays

SPECS = {"x": ((2, 3), "float32")}
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(shape: str, descr: str = "'<f4'", pad: int = 0) -> bytes:
    """A header with these texts, without elements."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}" + " " * pad + "\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode("latin1")


def archive(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises((ApiError, InputError)) as caught:
        arrays = load_arrays(path, "inputs")
        assert arrays is not None
        check_inputs(arrays, SPECS)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: Path, save) -> None:
    for x in (X, np.asfortranarray(X)):
        save(tmp_path / "x.npz", x=x)
        arrays = load_arrays(tmp_path / "x.npz", "inputs")
        assert arrays is not None
        check_inputs(arrays, SPECS)
        assert list(arrays) == ["x"] and np.array_equal(arrays["x"], X) and arrays["x"].dtype == X.dtype


def test_an_array_alone_is_that_of_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    arrays = load_arrays(tmp_path / "x.npy", "inputs")
    assert arrays is not None
    check_inputs(arrays, SPECS)
    assert np.array_equal(arrays["x"], X)


def test_an_array_alone_is_refused_where_there_are_several_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    arrays = load_arrays(tmp_path / "x.npy", "inputs")
    assert arrays is not None
    with pytest.raises(ApiError, match="is a single array: save it with numpy.savez, one array per input"):
        check_inputs(arrays, {**SPECS, "y": ((1,), "int8")})


def test_a_header_that_claims_terabytes(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", ("x.npy", header("(1099511627776,)")))
    assert "'x', which claims 4398046511" in refusal(path)


def test_a_header_that_claims_more_than_a_number_holds(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", ("x.npy", header(f"({','.join(['9' * 100] * 20)},)")))
    assert "'x', which claims a number of" in refusal(path)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """64 MiB of zeros in 64 kB, under the name of an input of 6 elements."""
    path = archive(tmp_path / "x.npz", ("x.npy", npy(np.zeros(1 << 24, np.float32))))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    try:
        assert "'x' must have shape [2, 3], not [16777216]" in refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 21


def test_more_than_a_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    """A sparse file of 1 GiB and a little, which is real as far as its header can tell."""
    start = header(f"({(1 << 28) + 1},)")
    with open(tmp_path / "x.npy", "wb") as file:
        file.write(start)
        file.truncate(len(start) + 4 * ((1 << 28) + 1))
    assert "holds 1,073,741,828 bytes of arrays, more than the 1,073,741,824" in refusal(tmp_path / "x.npy")


def test_a_header_longer_than_any(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", ("x.npy", header("(2,3)", pad=60_000) + bytes(24)))
    assert "'x', which is no array of format version" in refusal(path)


@pytest.mark.parametrize(
    ("shape", "descr"),
    [
        ("(2,3)", "'|O'"),
        ("(2,3)", "[('a', '<f4')]"),
        ("(-2,-3)", "'<f4'"),
        ("(True,6)", "'<f4'"),
        ("(2,3", "'<f4'"),
        ("2", "'<f4'"),
        ("(2,3)", "'nonsense'"),
        ("(2,3)", "(" * 200 + ")" * 200),
        ("(2,3)", "'<M8[ns]'"),
    ],
)
def test_headers_of_no_plain_array(tmp_path: Path, shape: str, descr: str) -> None:
    path = archive(tmp_path / "x.npz", ("x.npy", header(shape, descr) + bytes(24)))
    assert refusal(path).startswith(f"inputs {str(path)!r} ")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", ("x.npy", npy(np.array([{}, {}], dtype=object))))
    assert "'x', which is no array of numbers" in refusal(path)


def test_members_that_are_no_arrays_or_come_twice(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", ("x.npy", npy(X)), ("notes\x1b[31m.txt", b"hello"))
    assert r"holds 'notes\x1b[31m.txt', which is no array: save it with numpy.savez" in refusal(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, ("x.npy", npy(X)), ("x.npy", npy(X)))
    assert "holds the array 'x' twice" in refusal(path)


def test_other_methods_of_compression_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", ("x.npy", npy(X)), method=zipfile.ZIP_BZIP2)
    assert "compressed by method 12: save it with numpy.savez" in refusal(path)
    data = bytearray(archive(path, ("x.npy", npy(X))).read_bytes())
    for at in (8, data.index(b"PK\1\2") + 10):
        data[at : at + 2] = (99).to_bytes(2, "little")
    path.write_bytes(data)
    assert "compressed by method 99: save it with numpy.savez" in refusal(path)


def test_damage_inside_the_values_is_noticed(tmp_path: Path) -> None:
    """In a deflate stream, by its structure or its checksum; in a stored one by the checksum alone."""
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        path = archive(tmp_path / "x.npz", ("x.npy", npy(X)), method=method)
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\1\2") - 4] ^= 0x55
        path.write_bytes(data)
        assert "is no .npz file of plain arrays: " in refusal(path)


def test_any_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    data = archive(tmp_path / "x.npz", ("x.npy", npy(X))).read_bytes()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x21
        (tmp_path / "y.npz").write_bytes(damaged)
        try:
            arrays = load_arrays(tmp_path / "y.npz", "inputs")
            assert arrays is not None
            check_inputs(arrays, SPECS)
        except (ApiError, InputError):
            continue
        assert np.array_equal(arrays["x"], X), f"byte {at}"


def test_truncated_files_and_what_is_no_file(tmp_path: Path) -> None:
    data = archive(tmp_path / "x.npz", ("x.npy", npy(X))).read_bytes()
    for size in (0, 3, 30, len(data) // 2, len(data) - 1):
        (tmp_path / "x.npz").write_bytes(data[:size])
        assert "x.npz" in refusal(tmp_path / "x.npz")
    assert "cannot be read: No such file" in refusal(tmp_path / "none.npz")
    assert "cannot be read: Is a directory" in refusal(tmp_path)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    arrays = StoredArrays(archive(tmp_path / "x.npz", ("x.npy", npy(X))), "inputs")
    archive(tmp_path / "x.npz", ("x.npy", npy(X.T)))
    with pytest.raises(ApiError, match=r"changed while it was read$"):
        arrays["x"]


def test_a_deflate_stream_that_lies_about_its_length(tmp_path: Path) -> None:
    """The directory says what the header says, and the stream holds 16 MiB."""
    path = archive(tmp_path / "x.npz", ("x.npy", npy(X)))
    data = path.read_bytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(npy(X) + bytes(1 << 24)) + packer.flush()
    start = data.index(b"PK\1\2")
    local, directory = bytearray(data[: 30 + len("x.npy")]), bytearray(data[start:])
    local[18:22] = directory[20:24] = len(body).to_bytes(4, "little")
    end = directory.index(b"PK\5\6")
    directory[end + 16 : end + 20] = (len(local) + len(body)).to_bytes(4, "little")
    path.write_bytes(local + body + directory)
    tracemalloc.start()
    try:
        arrays = load_arrays(path, "inputs")
        assert arrays is not None
        check_inputs(arrays, SPECS)
        _, peak = tracemalloc.get_traced_memory()
    except (ApiError, InputError):
        peak = 0
    finally:
        tracemalloc.stop()
    assert peak < 1 << 21

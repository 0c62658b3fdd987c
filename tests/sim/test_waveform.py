"""Waveforms: the window that was asked for, in the format that the suffix names."""

from pathlib import Path

import pytest

from systolith.sim.native import MemoryModel, RtlBench, Waveform
from systolith.sim.verilator import SimulationError
from tests.sim.copy_engine import copy_engine

FIRST, LAST = 40, 75


def record(path: Path) -> None:
    """A window of a design at work."""
    with RtlBench(copy_engine(), "copier", MemoryModel(), Waveform(path, FIRST, LAST)) as bench:
        bench.run(100)


def lz4_decoded(data: bytes, size: int) -> bytes:
    """An LZ4 block."""
    out, at = bytearray(), 0

    def length(total: int) -> int:
        nonlocal at
        more = total == 15
        while more:
            total, more, at = total + data[at], data[at] == 255, at + 1
        return total

    while at < len(data):
        token, at = data[at], at + 1
        literals = length(token >> 4)
        out += data[at : at + literals]
        at += literals
        if at < len(data):
            back = int.from_bytes(data[at : at + 2], "little")
            at += 2
            for _ in range(length(token & 15) + 4):
                out.append(out[-back])
    assert len(out) == size
    return bytes(out)


def test_fst(tmp_path: Path) -> None:
    record(tmp_path / "w.fst")
    data, blocks, at = (tmp_path / "w.fst").read_bytes(), {}, 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 9], "big")
        blocks[data[at]] = data[at + 9 : at + 1 + size]
        at += 1 + size
    header, hierarchy = blocks[0], blocks[6]
    begin, end = (int.from_bytes(header[i : i + 8], "big") for i in (0, 8))
    assert (begin, end) == (2 * FIRST, 2 * LAST - 1)
    names = lz4_decoded(hierarchy[8:], int.from_bytes(hierarchy[:8], "big"))
    assert b"copier" in names and b"axi__araddr" in names


def test_vcd(tmp_path: Path) -> None:
    record(tmp_path / "w.vcd")
    text = (tmp_path / "w.vcd").read_text()
    times = [int(line[1:]) for line in text.splitlines() if line.startswith("#")]
    assert (times[0], times[-1]) == (2 * FIRST, 2 * LAST - 1)
    assert "axi__araddr" in text


def test_a_waveform_of_another_format_is_refused() -> None:
    with pytest.raises(SimulationError, match=r"must end in \.vcd or \.fst, and 'a\.txt' does not"):
        Waveform("a.txt")

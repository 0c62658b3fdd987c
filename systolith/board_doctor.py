"""Which part of a board fails: link, core, memory, clock, or the programs that run on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from systolith.device_port import open_port
from systolith.doctor import Check
from systolith.host.device import DeviceError
from systolith.host.driver import Driver
from systolith.host.serial import SerialDevice
from systolith.reference.conv import Conv
from systolith.reference.graph import QGraph, QNode, QTensor, Requant
from systolith.spec.arch import ArchConfig
from systolith.spec.image import Image
from systolith.spec.isa import isa_for
from systolith.spec.numerics import approximate_scale
from systolith.spec.regs import DEFAULT_WATCHDOG, MAGIC, VERSION, core_digest

if TYPE_CHECKING:
    from systolith.boards.board import Board

__all__ = ["built_in_program", "check_board"]

#: Requests of the first check, and how many of a hundred may be repeated before the line is called bad.
_REQUESTS, _PERCENT_REPEATED = 50, 5
#: The clock is measured over so many round trips of a request, which says it to about 1 %, and may be off by
#: so much.
_ROUND_TRIPS, _CLOCK_TOLERANCE = 200, 0.02
#: Requests of the march at each of three places of memory, besides one beat at each power of two.
_BLOCKS = 2


class _Fault(Exception):
    """A check that failed: what was found, and the remedy."""


def check_board(board: Board, port: str, progress: Callable[[str], None] | None = None) -> list[Check]:
    """Every check, in the order in which one depends on those before it. What memory held is lost.

    Raises
    ------
    ApiError, SimulationError   If there is no such board in simulation, or it cannot be built.
    """
    checks: list[Check] = []
    try:
        device = open_port(port, board)
    except DeviceError as error:
        checks.append(Check("link", False, str(error)))
        return checks + [
            Check(name, None, "not checked: there is no link") for name in _CHECKS if name != "link"
        ]
    try:
        failed = ""
        for name, check in _CHECKS.items():
            if failed:
                checks.append(Check(name, None, f"not checked: {failed} comes first"))
                continue
            if progress is not None:
                progress(f"checking {name}")
            try:
                checks.append(Check(name, True, check(device, board)))
            except (_Fault, DeviceError) as error:
                failed = name
                checks.append(Check(name, False, str(error)))
    finally:
        device.close()
    return checks


def _check_link(device: SerialDevice, board: Board) -> str:
    statistics, begin, before = device.statistics, device.transport.now(), device.statistics.retries
    for _ in range(_REQUESTS):
        device.csr_read("MAGIC")
    seconds, repeated = device.transport.now() - begin, statistics.retries - before
    if 100 * repeated > _PERCENT_REPEATED * _REQUESTS:
        raise _Fault(
            f"{repeated} of {_REQUESTS} requests had to be repeated: the line is bad; use a shorter cable, "
            f"or build with a lower baud rate than {device.transport.baud:,}"
        )
    return f"{_REQUESTS} requests, {repeated} repeated, {1e3 * seconds / _REQUESTS:.3f} ms each"


def _check_core(device: SerialDevice, board: Board) -> str:
    if (magic := device.csr_read("MAGIC")) != MAGIC:
        raise _Fault(
            f"MAGIC reads 0x{magic:08x} instead of 0x{MAGIC:08x}: the link works, but there is no Systolith "
            "core behind it; load the bitstream again"
        )
    if (version := device.csr_read("VERSION")) >> 16 != VERSION >> 16:
        raise _Fault(
            f"the core has version {version >> 16}, this host speaks version {VERSION >> 16}: build the "
            f"bitstream again"
        )
    return f"version {version >> 16}.{version & 0xFFFF}"


def _check_digest(device: SerialDevice, board: Board) -> str:
    digest = b"".join(device.csr_read(f"DIGEST{i}").to_bytes(4, "little") for i in range(4))
    expected = core_digest(board.arch)
    if digest != expected:
        shape = (
            f"{device.csr_read('ROWS')} x {device.csr_read('COLS')}, bus {device.csr_read('BUS_BITS')} bits"
        )
        raise _Fault(
            f"the core ({shape}) has digest {digest.hex()[:12]}, and that of {board.name} is "
            f"{expected.hex()[:12]}: the bitstream is of another board or version; systolith build --board "
            f"{board.name}, and load it"
        )
    return digest.hex()[:12]


# -- memory
# ----------------------------------------------------------------------------------------------------------
def _check_memory(device: SerialDevice, board: Board) -> str:
    """March C-, with a pattern that differs from address to address, and its inverse, in the place of 0 and
    1."""
    size, beat, block = board.memory.bytes, board.arch.bus_bytes, device.payload_bytes
    blocks = {
        base + i * block: block for base in (0, size // 2, size - _BLOCKS * block) for i in range(_BLOCKS)
    }
    words = (1 << k for k in range((beat - 1).bit_length(), (size - 1).bit_length()))
    cells = blocks | {
        word: beat for word in words if not any(addr <= word < addr + count for addr, count in blocks.items())
    }
    up = sorted(cells.items())
    for read, write, order in (
        (None, 0, up),
        (0, 1, up),
        (1, 0, up),
        (0, 1, up[::-1]),
        (1, 0, up[::-1]),
        (0, None, up[::-1]),
    ):
        for addr, count in order:
            if read is not None and (found := device.read(addr, count)) != (
                wanted := _pattern(addr, count, read)
            ):
                at = next(i for i in range(count) if found[i] != wanted[i])
                raise _Fault(
                    f"at 0x{addr + at:x}, 0x{found[at]:02x} was read instead of 0x{wanted[at]:02x}: "
                    f"{_diagnose(device, size, beat)}"
                )
            if write is not None:
                device.write(addr, _pattern(addr, count, write))
    return f"march C- over {sum(cells.values()):,} bytes of {size:,}, at every address bit"


def _pattern(addr: int, size: int, inverted: int) -> bytes:
    """Bytes that are the same whenever they are asked for, for any beat-aligned piece."""
    words = b"".join(
        hashlib.blake2s(at.to_bytes(8, "little"), digest_size=4).digest()
        for at in range(addr // 4, (addr + size + 3) // 4)
    )
    return bytes(byte ^ (0xFF if inverted else 0) for byte in words[addr % 4 :][:size])


def _diagnose(device: SerialDevice, size: int, beat: int) -> str:
    """What is wrong with a memory that forgets, and the remedy."""
    wrong = 0
    for inverted in (0, 1):
        data = _pattern(0, beat, inverted)
        device.write(0, data)
        wrong |= int.from_bytes(device.read(0, beat), "little") ^ int.from_bytes(data, "little")
    if wrong:
        bits = ", ".join(str(i) for i in range(8 * beat) if wrong >> i & 1)
        return (
            f"bits {bits} of the bus are wrong; look at the data pins of the memory chip, "
            f"and at the phase of its clock"
        )
    lost = []
    for k in range((beat - 1).bit_length(), (size - 1).bit_length()):
        device.write(0, _pattern(0, beat, 0))
        device.write(1 << k, _pattern(0, beat, 1))
        if device.read(0, beat) == _pattern(0, beat, 1):
            lost.append(k)
    if lost:
        named = ", ".join(map(str, lost))
        return f"address bits {named} make no difference; look at the address pins of the memory chip"
    return "only some accesses fail; build for a slower clock, or look at the memory chip's timing"


# -- programs
# --------------------------------------------------------------------------------------------------------
def _check_clock(device: SerialDevice, board: Board) -> str:
    """An instruction that waits for ever, while CYCLES is read twice."""
    isa = isa_for(board.arch)
    program = b"".join(
        isa.encode(isa.assemble(line)) for line in ("LOAD wait=STORE region=DATA bytes=1", "HALT")
    )
    device.reset()
    device.write(0, program)
    for name, value in (
        ("PROGRAM_LO", 0),
        ("PROGRAM_HI", 0),
        ("PROGRAM_SIZE", len(program)),
        ("DATA_LO", 0),
        ("DATA_HI", 0),
        ("DATA_SIZE", 4096),
        ("ENTRY", 0),
        ("WATCHDOG", 0),
    ):
        device.csr_write(name, value)
    now = device.transport.now

    def sample() -> tuple[float, float, int]:
        """When CYCLES was read, how long that took, and what it was."""
        before = now()
        cycles = device.csr_read("CYCLES_LO")
        after = now()
        return (before + after) / 2, after - before, cycles

    device.start()
    first = sample()
    while (last := sample())[0] - first[0] < _ROUND_TRIPS * min(first[1], last[1]):
        pass
    device.reset()
    device.csr_write("WATCHDOG", DEFAULT_WATCHDOG)
    measured = (last[2] - first[2]) % (1 << 32) / (last[0] - first[0])
    text = f"{measured / 1e6:.2f} MHz"
    if abs(measured / board.clock_hz - 1) > _CLOCK_TOLERANCE:
        raise _Fault(
            f"the core runs at {text} instead of {board.clock_hz / 1e6:.2f} MHz: is the oscillator or the "
            f"PLL another than that of {board.name}, or has the core stopped?"
        )
    return f"{text} by this computer's time, {board.clock_hz / 1e6:.2f} MHz expected"


def built_in_program(seed: int = 0) -> QGraph:
    """A convolution over the whole range of int8, small enough for every core."""
    rng = np.random.default_rng(seed)
    channels, kernel = 8, 3
    mult, shift = approximate_scale(100 / (74 * 74 * np.sqrt(channels * kernel * kernel)))
    requant = Requant(mult=np.full(channels, mult), shift=np.full(channels, shift), zero=3)
    op = Conv(
        weights=rng.integers(-128, 128, (channels, channels, kernel, kernel)).astype(np.int8),
        bias=rng.integers(-20000, 20000, channels).astype(np.int32),
        strides=(1, 1),
        dilations=(1, 1),
        pads=(1, 1, 1, 1),
        group=1,
        x_zero=-5,
        requant=requant,
    )
    tensors = {
        name: QTensor(name=name, shape=(1, channels, 8, 8), scale=0.05, zero_point=zero)
        for name, zero in (("x", -5), ("y", 3))
    }
    node = QNode(name="conv", op=op, inputs=("x",), output="y", op_type="Conv", sources=("y",))
    return QGraph(name="built-in", tensors=tensors, nodes=(node,), inputs=("x",), outputs=("y",))


def _check_program(device: SerialDevice, board: Board) -> str:
    graph = built_in_program()
    driver = Driver(device, _compiled(graph, board.arch))
    x = np.random.default_rng(1).integers(-128, 128, graph.tensors["x"].shape).astype(np.int8)
    expected, found = graph.run({"x": x})["y"], driver.run_int8({"x": x})["y"]
    if wrong := int((expected != found).sum()):
        raise _Fault(
            f"{wrong} of {expected.size} results of the built-in convolution are wrong, though the memory is "
            "good: the core does not keep its clock; build it again, or for a slower one"
        )
    return f"a convolution of {expected.size} results, bit for bit, in {driver.cycles:,} cycles"


def _compiled(graph: QGraph, arch: ArchConfig) -> Image:
    from systolith.compiler.driver import compile_graph

    return compile_graph(graph, arch)


_CHECKS: dict[str, Callable[[SerialDevice, Board], str]] = {
    "link": _check_link,
    "core": _check_core,
    "digest": _check_digest,
    "memory": _check_memory,
    "clock": _check_clock,
    "program": _check_program,
}

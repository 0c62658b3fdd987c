"""A whole board in simulation, as a transport of the host link: the design with its serial pins and its
memory chip, under Verilator.

`native/board.cpp` drives the line bit by bit and is the SDRAM chip, so Python is called once per byte that
the board sends.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from systolith.hw.soc.on_chip import OnChipRam
from systolith.hw.soc.sdram_chip import SdramTiming
from systolith.hw.soc.system import generate_system
from systolith.sim.sdram import chip_timing
from systolith.sim.verilator import SimulationError, build, native_source
from systolith.spec.arch import ArchConfig
from systolith.spec.errors import DeviceError
from systolith.spec.link import MIN_DIVISOR, PAYLOAD_BYTES

__all__ = ["BoardError", "SimulatedBoard"]

_HEADERS = (
    "algorithm",
    "cstdint",
    "cstdio",
    "cstring",
    "deque",
    "memory",
    "string",
    "unordered_map",
    "vector",
)
#: What one call of the bench may simulate at most, so that it can be interrupted.
_SLICE_CYCLES = 1 << 15


class BoardError(SimulationError, DeviceError):
    """A rule of the memory chip or of the serial line that the board broke."""


class SimulatedBoard:
    """One board, a `host.serial.Transport`.

    The line runs at `divisor` cycles per bit, far faster than on silicon, since a simulation lasts as long as
    its cycles.

    Parameters
    ----------
    arch : ArchConfig
    memory : SdramTiming, OnChipRam
    name : str                 for messages
    divisor, payload_bytes     see `hw.soc.system.System`
    pin_cycles : int           registers between controller and chip, see `hw.soc.sdram_engine.SdramEngine`
    waveform : path            .vcd or .fst of everything; None: none, which is faster
    cache_dir : Path           of builds; None: the user's cache

    Raises
    ------
    ToolError, SimulationError   see `sim.verilator.build`
    """

    #: Seconds that memory may take to answer the link: it starts up after a reset.
    latency = 0.001

    def __init__(
        self,
        arch: ArchConfig,
        memory: SdramTiming | OnChipRam,
        *,
        name: str = "sim",
        divisor: int = MIN_DIVISOR,
        payload_bytes: int = PAYLOAD_BYTES,
        pin_cycles: int = 0,
        waveform: str | Path | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        self.name = name
        self.clock_hz = memory.clock_hz
        #: Memory is a chip outside the design.
        self.has_chip = isinstance(memory, SdramTiming)
        self.baud = self.clock_hz // divisor
        files = generate_system(
            arch,
            memory,
            divisor=divisor,
            payload_bytes=payload_bytes,
            pin_cycles=pin_cycles,
            cache_dir=cache_dir,
        )
        trace = None if waveform is None else Path(waveform).suffix[1:]
        if trace not in (None, "vcd", "fst"):
            raise SimulationError(
                f"a waveform's name must end in .vcd or .fst, and {str(waveform)!r} does not"
            )
        library = ctypes.CDLL(
            str(build(files.sources, "system", _harness(self.has_chip), cache_dir, trace=trace))
        )
        u64, handle = ctypes.c_uint64, ctypes.c_void_p
        settings = _settings(divisor, memory, pin_cycles)
        signatures = {
            "new": (handle, ctypes.POINTER(type(settings))),
            "delete": (None, handle),
            "error": (ctypes.c_char_p, handle),
            "cycle": (u64, handle),
            "send": (None, handle, ctypes.c_char_p, u64),
            "receive": (ctypes.c_int64, handle, ctypes.c_char_p, u64, u64),
            "run": (ctypes.c_int64, handle, u64),
            "reset": (ctypes.c_int64, handle),
            "hold_low": (None, handle, u64),
            "cut": (None, handle, ctypes.c_int),
        }
        if self.has_chip:
            signatures |= {
                "stuck": (None, handle, ctypes.c_uint32, ctypes.c_uint32),
                "memory_write": (None, handle, u64, ctypes.c_char_p, u64),
                "memory_read": (None, handle, u64, ctypes.c_char_p, u64),
            }
        if trace is not None:
            signatures["waveform"] = (None, handle, ctypes.c_char_p)
        self._lib = library
        for symbol, (result, *arguments) in signatures.items():
            function = getattr(library, f"board_{symbol}")
            function.restype, function.argtypes = result, arguments
        self._handle = library.board_new(ctypes.byref(settings))
        if trace is not None:
            library.board_waveform(self._handle, str(waveform).encode())

    # -- transport
    # ------------------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        """Queue bytes for the line; time passes in `read`."""
        self._lib.board_send(self._handle, data, len(data))

    def read(self, timeout: float) -> bytes:
        """What the board sends, as soon as there is something; empty after `timeout` simulated seconds.

        Raises
        ------
        BoardError   If the board breaks a rule.
        """
        buffer = ctypes.create_string_buffer(256)
        left = max(1, round(timeout * self.clock_hz))
        count = 0
        while not count and left > 0:
            count = self._check(
                self._lib.board_receive(self._handle, buffer, len(buffer), min(left, _SLICE_CYCLES))
            )
            left -= _SLICE_CYCLES
        return buffer.raw[:count]

    def discard(self) -> None:
        """Forget what has come, until the line is quiet."""
        while self.read(20 / self.baud):
            pass

    def now(self) -> float:
        """Simulated seconds."""
        return self.cycle / self.clock_hz

    def close(self) -> None:
        """Free the model; the board cannot be used afterwards."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle:
            self._lib.board_delete(handle)

    def __del__(self) -> None:
        self.close()

    # -- what only a simulation can do
    # ------------------------------------------------------------------------------------
    @property
    def cycle(self) -> int:
        """Clock cycles since power-up."""
        return self._lib.board_cycle(self._handle)

    def run(self, cycles: int) -> None:
        """Simulate so many cycles."""
        self._check(self._lib.board_run(self._handle, cycles))

    def reset(self) -> None:
        """Press the reset button; the memory chip keeps its contents, and must be started again."""
        self._check(self._lib.board_reset(self._handle))

    def hold_low(self, cycles: int) -> None:
        """A break: the line to the board is low for the next cycles, whatever is being sent."""
        self._lib.board_hold_low(self._handle, cycles)

    def cut(self, cut: bool = True) -> None:
        """Cut the line from the board, or mend it."""
        self._lib.board_cut(self._handle, cut)

    def stick_pins(self, address: int = 0, data: int = 0) -> None:
        """A fault of the memory: these of the chip's address pins, and of the data that the controller reads,
        are always low; masks."""
        self._need_chip()
        self._lib.board_stuck(self._handle, address, data)

    def memory_read(self, addr: int, size: int) -> bytes:
        """Contents of the memory chip, past the link; takes no simulated time."""
        self._need_chip()
        buffer = ctypes.create_string_buffer(size)
        self._lib.board_memory_read(self._handle, addr, buffer, size)
        return buffer.raw

    def memory_write(self, addr: int, data: bytes) -> None:
        """Set contents of the memory chip, past the link; takes no simulated time."""
        self._need_chip()
        self._lib.board_memory_write(self._handle, addr, bytes(data), len(data))

    def _need_chip(self) -> None:
        if not self.has_chip:
            raise SimulationError(f"{self.name} has no memory chip, whose contents and pins could be reached")

    def _check(self, result: int) -> int:
        if result < 0:
            raise BoardError(f"{self.name}: {self._lib.board_error(self._handle).decode()}")
        return result


def _harness(has_chip: bool) -> str:
    glue = "".join(f"#include <{h}>\n" for h in _HEADERS) + (
        '#include "Vsystem.h"\n#include "verilated.h"\n'
        '#if VM_TRACE_FST\n#include "verilated_fst_c.h"\nusing Wave = VerilatedFstC;\n'
        '#elif VM_TRACE\n#include "verilated_vcd_c.h"\nusing Wave = VerilatedVcdC;\n#endif\n'
        f"#define MODEL Vsystem\n#define HAS_SDRAM {int(has_chip)}\n"
    )
    return glue + native_source(*(("memory.h", "sdram.h") if has_chip else ()), "board.cpp")


def _settings(divisor: int, memory: SdramTiming | OnChipRam, pin_cycles: int) -> ctypes.Structure:
    chip = [("sdram", chip_timing(memory, pin_cycles))] if isinstance(memory, SdramTiming) else []

    class Settings(ctypes.Structure):
        _fields_ = [("divisor", ctypes.c_uint32), *((name, type(value)) for name, value in chip)]

    return Settings(divisor, *(value for _, value in chip))

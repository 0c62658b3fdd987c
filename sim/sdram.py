"""The SDRAM chip of `native/sdram.h` for simulations that Python drives clock by clock: block tests and
cocotb benches."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from systolith.hw.soc.sdram_chip import SdramTiming
from systolith.sim.verilator import SimulationError, compile_library, native_source

__all__ = ["PINS", "SdramChip", "SdramCounts", "SdramRuleError", "chip_timing"]

#: The pins that a step of the chip takes.
PINS = ("clk_en", "cs", "ras", "cas", "we", "ba", "a", "dqm", "dq_o", "dq_oe")
_GEOMETRY = ("bits", "rows", "columns", "banks", "cas_latency")
_TIMES = (
    "clock_hz",
    "t_rcd",
    "t_rp",
    "t_ras",
    "t_rc",
    "t_rfc",
    "t_rrd",
    "t_wr",
    "t_ras_max",
    "refresh",
    "power_up",
)


class SdramRuleError(SimulationError):
    """The controller broke a rule of the chip."""


class SdramCounts(NamedTuple):
    """Commands so far."""

    activates: int
    refreshes: int
    reads: int
    writes: int


class _Timing(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in (*_GEOMETRY, "pin_cycles")),
        *((name, ctypes.c_double) for name in _TIMES),
    ]


class _Pins(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in PINS]


def chip_timing(timing: SdramTiming, pin_cycles: int = 0) -> ctypes.Structure:
    """A chip's parameters as the C++ model takes them."""
    values = {name: getattr(timing, name) for name in (*_GEOMETRY, *_TIMES)}
    return _Timing(pin_cycles=pin_cycles, **values)


class SdramChip:
    """One chip. Contents are at the addresses at which `hw.soc.sdram.SdramController` puts them.

    Parameters
    ----------
    timing : SdramTiming
    pin_cycles : int      registers between the controller and the chip, see `hw.soc.sdram_engine.SdramEngine`

    Raises
    ------
    ToolError, SimulationError   see `sim.verilator.compile_library`
    """

    def __init__(self, timing: SdramTiming, pin_cycles: int = 0) -> None:
        library = ctypes.CDLL(
            str(compile_library(native_source("memory.h", "sdram.h", "sdram.cpp"), "sdram"))
        )
        u64, handle = ctypes.c_uint64, ctypes.c_void_p
        signatures = {
            "new": (handle, ctypes.POINTER(_Timing)),
            "delete": (None, handle),
            "step": (ctypes.c_uint32, handle, ctypes.POINTER(_Pins)),
            "problem": (ctypes.c_char_p, handle),
            "restart": (None, handle),
            "counts": (None, handle, ctypes.POINTER(u64)),
            "write": (None, handle, u64, ctypes.c_char_p, u64),
            "read": (None, handle, u64, ctypes.c_char_p, u64),
        }
        for name, (result, *arguments) in signatures.items():
            function = getattr(library, f"sdram_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)
        self._pins = _Pins()
        self._handle = self._new(ctypes.byref(chip_timing(timing, pin_cycles)))

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self._delete(handle)

    def step(self, **pins: int) -> int:
        """A rising edge of the clock: the pins of `SdramSignature` but `dq_i` at this edge; returns `dq_i`
        from here to the next edge.

        Raises
        ------
        SdramRuleError   If a rule is broken.
        """
        for name in PINS:
            setattr(self._pins, name, pins[name])
        dq = self._step(self._handle, ctypes.byref(self._pins))
        if problem := self._problem(self._handle):
            raise SdramRuleError(problem.decode())
        return dq

    def restart(self) -> None:
        """Power off and on again; contents stay."""
        self._restart(self._handle)

    @property
    def counts(self) -> SdramCounts:
        """Commands so far."""
        values = (ctypes.c_uint64 * 4)()
        self._counts(self._handle, values)
        return SdramCounts(*values)

    def write(self, addr: int, data: bytes) -> None:
        """Set contents, from outside."""
        self._write(self._handle, addr, bytes(data), len(data))

    def read(self, addr: int, size: int) -> bytes:
        """Contents, from outside."""
        buffer = ctypes.create_string_buffer(size)
        self._read(self._handle, addr, buffer, size)
        return buffer.raw

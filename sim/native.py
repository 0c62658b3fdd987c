"""The RTL as a `Device`: a Verilated core, its memory and its host modelled in C++, so that Python is never
called per clock."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from systolith.sim.glue import data_bytes, log_of, prologue
from systolith.sim.verilator import (
    SimulationError,
    build,
    module_ports,
    native_source,
)
from systolith.spec.arch import ArchConfig
from systolith.spec.errors import DeviceError, OutOfCyclesError
from systolith.spec.isa import Engine
from systolith.spec.memory import SIMULATED_MEMORY_BYTES, MemoryTiming
from systolith.spec.regs import CSRS, Control, Status

__all__ = ["DECERR", "SLVERR", "MemoryModel", "ProtocolError", "RtlBench", "RtlDevice", "Waveform"]

#: Cycles that one call of the bench simulates at most while it waits: Ctrl-C acts between two calls.
_SLICE = 1 << 12
#: AXI responses for `RtlBench.inject`.
SLVERR, DECERR = 2, 3


class ProtocolError(SimulationError, DeviceError):
    """The core broke a rule of AXI, or its CSRs did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel(MemoryTiming):
    """External memory as the core sees it: its timing, and what else a simulation may vary.

    Parameters
    ----------
    latency, bytes_per_cycle  see `MemoryTiming`; the rate is that of each direction
    outstanding : int         bursts that each direction accepts before the first is answered
    stall_probability : float chance that a channel pauses for a cycle, for each channel
    stall_seed : int          seed of the pauses
    memory_bytes : int        addresses from here on answer DECERR; memory is sparse

    Raises
    ------
    MemoryTimingError   As `MemoryTiming`.
    SimulationError     If one of the others is out of range.
    """

    outstanding: int = 16
    stall_probability: float = 0.0
    stall_seed: int = 0
    memory_bytes: int = 1 << 40

    def __post_init__(self) -> None:
        # Not `super()`: with slots, the decorator makes a class that the method does not know.
        MemoryTiming.__post_init__(self)
        if self.outstanding < 1 or not 0.0 <= self.stall_probability < 1.0:
            raise SimulationError(
                "outstanding must be >= 1 and 0 <= stall_probability < 1, not "
                f"{self.outstanding} and {self.stall_probability}"
            )


@dataclass(frozen=True, slots=True)
class Waveform:
    """A file of the cycles from `first` up to, not including, `last`, in the format that its suffix names:
    .vcd or .fst.

    At time 2n every signal is as the rising edge of cycle n, at 2n + 1, takes it.

    Raises
    ------
    SimulationError   If the suffix is another.
    """

    path: str | Path
    first: int = 0
    last: int = (1 << 64) - 1

    def __post_init__(self) -> None:
        if self.format not in ("vcd", "fst"):
            raise SimulationError(
                f"a waveform's name must end in .vcd or .fst, and {str(self.path)!r} does not"
            )

    @property
    def format(self) -> str:
        """'vcd' or 'fst'."""
        return Path(self.path).suffix[1:].lower()


class _Settings(ctypes.Structure):
    _fields_ = [
        ("latency", ctypes.c_uint32),
        ("bytes_per_cycle", ctypes.c_uint32),
        ("outstanding", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("stall", ctypes.c_double),
        ("memory_bytes", ctypes.c_uint64),
    ]


class RtlBench:
    """Any design with an AXI4 manager ``axi``, AXI4-Lite CSRs ``csr``, ``clk`` and ``rst``, on the bench of
    `native/harness.cpp`.

    Protocol rules are always checked: VALID stays until READY, payloads do not change while they wait, bursts
    are INCR, as wide as the bus and inside 4 KiB, WLAST is right, no VALID during reset.

    Parameters
    ----------
    sources : dict           file name to Verilog text
    top : str                top module
    memory : MemoryModel
    waveform : Waveform      None: the design is built without waveforms, which is faster
    cache_dir : Path         of builds; None: the user's cache
    optimise : str           flag of the C++ compiler

    Raises
    ------
    ToolError, SimulationError   see `sim.verilator.build`; also if the waveform cannot be written
    """

    def __init__(
        self,
        sources: dict[str, str],
        top: str,
        memory: MemoryModel,
        waveform: Waveform | None = None,
        cache_dir: Path | None = None,
        optimise: str = "-O1",
    ) -> None:
        self.ports = {name: bits for name, _, bits in module_ports(sources, top)}
        for name in ("clk", "rst", "axi__wdata", "axi__araddr", "csr__araddr"):
            if name not in self.ports:
                raise SimulationError(f"module {top!r} has no port {name!r}, which the simulation drives")
        self.bus_bytes = self.ports["axi__wdata"] // 8
        if (1 << 16) % self.bus_bytes:
            raise SimulationError(f"the bus must be a power of two of bytes wide, not {self.bus_bytes}")
        log = log_of(self.ports)
        self._data_bytes = data_bytes(self.ports, self.bus_bytes)
        self.sources = log.sources
        #: Sources of the log that say that an instruction is done.
        self.done_sources = log.done_sources
        harness = native_source("memory.h", "harness.cpp")
        cpp = prologue(top, self.bus_bytes, self._data_bytes) + harness + log.code
        self.shared_object = build(
            sources, top, cpp, cache_dir, trace=waveform and waveform.format, optimise=optimise
        )
        self._lib = lib = ctypes.CDLL(str(self.shared_object))
        u32, u64, handle = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
        signatures = {
            "new": (handle, ctypes.POINTER(_Settings)),
            "delete": (None, handle),
            "error": (ctypes.c_char_p, handle),
            "write": (None, handle, u64, ctypes.c_char_p, u64),
            "read": (None, handle, u64, ctypes.c_char_p, u64),
            "csr_read": (ctypes.c_int64, handle, u32, ctypes.POINTER(u32)),
            "csr_write": (ctypes.c_int64, handle, u32, u32),
            "run": (ctypes.c_int64, handle, u64),
            "wait": (ctypes.c_int64, handle, u32, u32, u64),
            "cycle": (u64, handle),
            "fault": (None, handle, u64, u64, u32, ctypes.c_int, ctypes.c_int),
            "log": (None, handle, ctypes.c_int, ctypes.c_int),
            "log_clear": (None, handle),
            "log_size": (u64, handle),
            "log_data": (ctypes.c_void_p, handle),
            "spin": (None, handle, u64),
        }
        if waveform is not None:
            signatures["waveform"] = (None, handle, ctypes.c_char_p, u64, u64)
        for name, (result, *arguments) in signatures.items():
            function = getattr(lib, f"sim_{name}")
            function.restype, function.argtypes = result, arguments
        settings = _Settings(
            memory.latency,
            memory.bytes_per_cycle or self.bus_bytes,
            memory.outstanding,
            0,
            memory.stall_seed,
            memory.stall_probability,
            memory.memory_bytes,
        )
        self._handle = lib.sim_new(ctypes.byref(settings))
        self._check(-1 if lib.sim_error(self._handle) else 0)
        self._waveform = waveform
        if waveform is not None:
            try:
                Path(waveform.path).write_bytes(b"")
            except OSError as error:
                raise SimulationError(
                    f"cannot write the waveform {str(waveform.path)!r}: {error.strerror}"
                ) from error
            lib.sim_waveform(self._handle, str(waveform.path).encode(), waveform.first, waveform.last)

    def close(self) -> None:
        """Free the model and finish the waveform; the bench cannot be used afterwards."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle:
            self._lib.sim_delete(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    # -- memory and registers
    # -------------------------------------------------------------------------------------------
    def write(self, addr: int, data: bytes) -> None:
        """Copy bytes into external memory; takes no simulated time."""
        self._lib.sim_write(self._handle, addr, bytes(data), len(data))

    def read(self, addr: int, size: int) -> bytes:
        """Bytes of external memory; takes no simulated time."""
        buffer = ctypes.create_string_buffer(size)
        self._lib.sim_read(self._handle, addr, buffer, size)
        return buffer.raw

    def register_read(self, addr: int) -> int:
        """One AXI4-Lite read.

        Raises
        ------
        ProtocolError   If it is refused or not answered.
        """
        response = ctypes.c_uint32(0)
        value = self._check(self._lib.sim_csr_read(self._handle, addr, ctypes.byref(response)))
        if response.value:
            raise ProtocolError(f"reading register 0x{addr:x} was refused with response {response.value}")
        return value

    def register_write(self, addr: int, value: int) -> None:
        """One AXI4-Lite write.

        Raises
        ------
        ProtocolError   If it is refused or not answered.
        """
        if response := self._check(self._lib.sim_csr_write(self._handle, addr, value)):
            raise ProtocolError(f"writing register 0x{addr:x} was refused with response {response}")

    # -- time
    # --------------------------------------------------------------------------------------------------------
    @property
    def cycle(self) -> int:
        """Clock cycles since the bench was made."""
        return self._lib.sim_cycle(self._handle)

    def run(self, cycles: int) -> None:
        """Simulate so many cycles.

        Raises
        ------
        ProtocolError   If a rule of AXI is broken.
        """
        self._check(self._lib.sim_run(self._handle, cycles))

    def run_while(self, addr: int, mask: int, limit: int | None = None) -> bool:
        """Simulate while register `addr` has a bit of `mask` set; looks every 64 cycles. False: `limit`
        cycles passed.

        Raises
        ------
        ProtocolError   If a rule of AXI is broken.
        """
        return bool(self._check(self._lib.sim_wait(self._handle, addr, mask, limit or 0)))

    def spin(self, cycles: int) -> None:
        """Evaluate the model with all inputs frozen: the upper bound of speed, for benchmarks only."""
        self._lib.sim_spin(self._handle, cycles)

    def inject(
        self, first: int, last: int, response: int = SLVERR, *, read: bool = True, write: bool = True
    ) -> None:
        """Answer beats that touch bytes `first` to `last` with an error; a refused write changes nothing."""
        if response not in (SLVERR, DECERR):
            raise SimulationError(
                f"response must be SLVERR ({SLVERR}) or DECERR ({DECERR}), not {response!r}"
            )
        self._lib.sim_fault(self._handle, first, last, response, read, write)

    def clear_faults(self) -> None:
        """Undo every `inject`."""
        self._lib.sim_fault(self._handle, 0, 0, 0, 0, 0)

    # -- log of the trace ports
    # -------------------------------------------------------------------------------------------
    def start_log(self, writes: bool = True) -> None:
        """Forget what was logged and log from now on; instructions of each engine are counted from 0.

        Without `writes`, only that instructions are done, which hardly slows the run.
        """
        self._lib.sim_log(self._handle, 1, writes)

    def stop_log(self) -> np.ndarray:
        """What was logged since `start_log`: see `events`."""
        events = self.events()
        self._lib.sim_log(self._handle, 0, 0)
        return events

    def events(self) -> np.ndarray:
        """A copy of the log, in order of cycles, as records.

        Fields: ``cycle``; ``source``, an index into `sources` ('load', 'output', 'vector': an accepted write
        to the activation SRAM; 'weight', 'param', 'table': a beat there, by its number; 'sums': accumulators
        that MATRIX wrote; 'acc': those that OUTPUT read; 'chain': a chunk from OUTPUT to VECTOR; 'store': a
        beat that reached external memory; 'done.load' and so on: an instruction is done); ``ordinal``, how
        many instructions of that engine were done since `start_log` ('acc' and 'store' run ahead of it);
        ``addr``; ``mask`` of the bytes; ``data``, bytes.
        """
        dtype = self.event_dtype
        size = self._lib.sim_log_size(self._handle)
        if not size:
            return np.zeros(0, dtype)
        raw = ctypes.string_at(self._lib.sim_log_data(self._handle), size * dtype.itemsize)
        return np.frombuffer(raw, dtype).copy()

    def take_events(self) -> np.ndarray:
        """Like `events`, and forgets them; instructions are counted on."""
        events = self.events()
        self._lib.sim_log_clear(self._handle)
        return events

    @property
    def event_dtype(self) -> np.dtype:
        """The type of `events`."""
        return np.dtype(
            [
                ("cycle", "<u8"),
                ("addr", "<u8"),
                ("mask", "<u8"),
                ("source", "<u4"),
                ("ordinal", "<u4"),
                ("data", "u1", (self._data_bytes,)),
            ]
        )

    def _check(self, result: int) -> int:
        if result < 0:
            raise ProtocolError(self._lib.sim_error(self._handle).decode())
        return result


class RtlDevice(RtlBench):
    """One core's RTL as a `host.device.Device`.

    Parameters
    ----------
    arch : ArchConfig
    latency, bytes_per_cycle, stall_probability : see `MemoryModel`
    stall_seed : int         None: no stalls
    waveform                 a path (the whole run) or a `Waveform`
    sources : dict           Verilog of something else with the core's ports, a netlist for example; None: the
              core's own
    cache_dir, optimise      see `RtlBench`

    Raises
    ------
    ToolError, SimulationError   see `sim.verilator.build`
    """

    def __init__(
        self,
        arch: ArchConfig,
        latency: int = 32,
        bytes_per_cycle: int | None = None,
        stall_seed: int | None = None,
        stall_probability: float = 0.0,
        waveform: Waveform | str | Path | None = None,
        *,
        sources: dict[str, str] | None = None,
        top: str = "core",
        cache_dir: Path | None = None,
        optimise: str = "-O1",
    ) -> None:
        self.arch = arch
        self.memory_bytes = min(1 << arch.addr_bits, SIMULATED_MEMORY_BYTES)
        #: Cycle of the last START.
        self.started = 0
        if sources is None:
            sources, top = _core_sources(arch, cache_dir)
        memory = MemoryModel(
            latency=latency,
            bytes_per_cycle=bytes_per_cycle,
            stall_seed=stall_seed or 0,
            stall_probability=stall_probability if stall_seed is not None else 0.0,
            memory_bytes=1 << arch.addr_bits,
        )
        if isinstance(waveform, (str, Path)):
            waveform = Waveform(waveform)
        super().__init__(sources, top, memory, waveform, cache_dir, optimise)

    def csr_read(self, name: str) -> int:
        """A register of `spec.regs` by name."""
        return self.register_read(CSRS[name].address)

    def csr_write(self, name: str, value: int) -> None:
        """Set a register by name."""
        self.register_write(CSRS[name].address, value)

    def start(self) -> None:
        """Begin executing at ENTRY."""
        self.csr_write("CONTROL", Control.START)
        self.started = self.cycle

    def wait(self, timeout_cycles: int | None = None) -> None:
        """Simulate until the core neither runs nor drains.

        Raises
        ------
        OutOfCyclesError   If it still runs after `timeout_cycles`.
        ProtocolError      If it breaks a rule of AXI.
        """
        status, busy = CSRS["STATUS"].address, Status.RUNNING | Status.DRAINING
        end = None if timeout_cycles is None else self.cycle + timeout_cycles
        while not self.run_while(status, busy, _SLICE if end is None else min(_SLICE, end - self.cycle)):
            if end is not None and self.cycle >= end:
                raise OutOfCyclesError(timeout_cycles)

    def open(self) -> None:
        """Nothing to do: a simulation is never reset by others."""

    def watch(self) -> None:
        """Note from now on when instructions are done."""
        self.start_log(writes=False)

    def dones(self) -> list[tuple[int, Engine]] | None:
        """When instructions were done since `watch`: cycle since the last START, and engine, in order of
        time;
        None where the Verilog lacks a trace port."""
        events = self.stop_log()
        if len(self.done_sources) < len(Engine):
            return None
        return [
            (int(cycle) - self.started, self.done_sources[int(source)])
            for cycle, source in zip(events["cycle"], events["source"], strict=True)
        ]

    def reset(self) -> None:
        """CONTROL.RESET, and wait until the core is idle.

        Raises
        ------
        DeviceError   If it does not come to rest.
        """
        self.csr_write("CONTROL", Control.RESET)
        try:
            self.wait(100_000)
        except OutOfCyclesError as error:
            raise DeviceError(
                "the core does not come to rest after RESET: its memory does not answer"
            ) from error


def _core_sources(arch: ArchConfig, cache_dir: Path | None) -> tuple[dict[str, str], str]:
    """The core's Verilog and the name of its top module."""
    from systolith.hw.build import generate

    return generate(arch, cache_dir=cache_dir).sources, "core"

"""RTL against machine while both run: a `Device` that stops at the first beat that the core writes wrong.

They are compared every few thousand cycles, so that memory is bounded by what the engines run ahead of one
another, and a long run stops soon after its first wrong beat.
"""

from __future__ import annotations

from systolith.evidence.comparison import TRACES, Comparison
from systolith.host.device import DeviceError
from systolith.reference.machine_device import MachineDevice
from systolith.sim.native import RtlDevice
from systolith.sim.verilator import SimulationError
from systolith.spec.regs import CSRS, ErrorCode, Status

__all__ = ["Lockstep", "Reached", "Replay"]

#: Cycles between two comparisons.
_CHUNK = 1 << 15


class Reached(DeviceError):
    """Raised by `Replay.wait` behind the last cycle that is wanted."""


class Lockstep:
    """A simulated core and a machine that does the same; `wait` compares.

    Parameters
    ----------
    rtl     : `RtlDevice`
    machine : `MachineDevice` without `on_instruction`

    Members
    -------
    begin : cycle of the last START

    Raises
    ------
    DeviceError   If the RTL lacks trace ports.
    Found         From `wait`, at the first difference; everything else as the RTL's own.
    """

    def __init__(self, rtl: RtlDevice, machine: MachineDevice) -> None:
        self.rtl, self._machine = rtl, machine
        self.begin = 0
        missing = [name for name in TRACES if name not in rtl.sources]
        if missing:
            raise DeviceError(
                f"the Verilog has no trace port for {', '.join(missing)}, by which the first difference is "
                f"found"
            )

    @property
    def memory_bytes(self) -> int:
        """What both hold."""
        return min(self.rtl.memory_bytes, self._machine.memory_bytes)

    def write(self, addr: int, data: bytes) -> None:
        """Write to both memories."""
        self.rtl.write(addr, data)
        self._machine.write(addr, data)

    def read(self, addr: int, size: int) -> bytes:
        """Bytes of the RTL's memory."""
        return self.rtl.read(addr, size)

    def csr_read(self, name: str) -> int:
        """A register of the RTL."""
        return self.rtl.csr_read(name)

    def csr_write(self, name: str, value: int) -> None:
        """Write to both cores."""
        self.rtl.csr_write(name, value)
        self._machine.csr_write(name, value)

    def reset(self) -> None:
        """Both."""
        self.rtl.reset()
        self._machine.reset()

    def start(self) -> None:
        """Begin at ENTRY, and a new comparison."""
        machine = self._machine
        data_base = machine.csrs["DATA_LO"] | machine.csrs["DATA_HI"] << 32
        self._comparison = Comparison(machine.prepare(), machine.csrs["ENTRY"], self.rtl.sources, data_base)
        self.rtl.start_log()
        self.begin = self.rtl.cycle
        self.rtl.start()

    def wait(self, timeout_cycles: int | None = None) -> None:
        """Run and compare.

        Raises
        ------
        Found   At the first difference; also where the core stops with an error, or `timeout_cycles` pass.
        """
        end = None if timeout_cycles is None else self.rtl.cycle + timeout_cycles
        stopped = False
        while not stopped and (end is None or self.rtl.cycle < end):
            status = CSRS["STATUS"].address
            try:
                stopped = self.rtl.run_while(status, Status.RUNNING | Status.DRAINING, self._chunk())
            except SimulationError:
                self._compare()
                self._comparison.stop("protocol", None, self.rtl.cycle)
            self._compare()
        if stopped and Status(self.rtl.csr_read("STATUS")) & Status.DONE:
            self._finish()
        else:
            code = ErrorCode(self.rtl.csr_read("ERROR_CODE"))
            hung = not stopped or code is ErrorCode.WATCHDOG
            self._comparison.stop(
                "unfinished" if hung else "error", self.rtl.csr_read("ERROR_ADDR"), self.rtl.cycle
            )

    def _finish(self) -> None:
        self._comparison.finish(self.rtl.cycle)

    def _chunk(self) -> int:
        return _CHUNK

    def _compare(self) -> None:
        self._comparison.feed(self.rtl.take_events())


class Replay(Lockstep):
    """The same core again, cycle by cycle, up to a cycle and without comparing: for its waveform."""

    def __init__(self, rtl: RtlDevice, machine: MachineDevice, last: int) -> None:
        super().__init__(rtl, machine)
        self._end = last

    def _chunk(self) -> int:
        # The host's reads of STATUS must fall in the same cycles as before.
        return max(1, min(_CHUNK, self._end - self.rtl.cycle))

    def _compare(self) -> None:
        self.rtl.take_events()
        self._finish()

    def _finish(self) -> None:
        if self.rtl.cycle >= self._end:
            raise Reached(f"cycle {self._end} is reached")

"""Designs under PyVerilator: for those who have benches written for it, and as a third way to drive the same
Verilog.

PyVerilator 0.7.0 supplies the C++ wrapper and the Python object; the project's own `sim.verilator.build`
compiles. So its three troubles with today's tools do not arise or are worked round here, without touching the
package: it imports `tclwrapper` (only used for GTKWave), which does not import under Python 3.11; its regular
expressions do not match the ports of Verilator 5; it asks for C++11.

Python is called in every cycle. For long runs take `sim.native`, which calls it once per run.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import types
import warnings
from collections import deque
from pathlib import Path

from systolith.hw.build import generate
from systolith.sim.verilator import build, cpp_name, module_ports
from systolith.spec.arch import ArchConfig
from systolith.spec.errors import DeviceError, OutOfCyclesError
from systolith.spec.regs import CSRS, Control, Status
from systolith.tooling.process import ToolError

__all__ = ["PyVerilatorDevice", "PyVerilatorModel", "load_pyverilator"]

#: Cycles that a register may take to answer.
_LIMIT = 1000


def load_pyverilator() -> types.ModuleType:
    """The module ``pyverilator.pyverilator``.

    Raises
    ------
    ToolError   If the package is not installed.
    """
    # An empty module in the place of `tclwrapper`, for as long as the import takes.
    before = sys.modules.get("tclwrapper")
    sys.modules["tclwrapper"] = before or types.ModuleType("tclwrapper")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("pyverilator.verilatorcpp")
            return importlib.import_module("pyverilator.pyverilator")
    except ModuleNotFoundError as error:
        raise ToolError("PyVerilator is not installed: pip install 'systolith[pyverilator]'") from error
    finally:
        if before is None:
            del sys.modules["tclwrapper"]


class PyVerilatorModel:
    """A design with one clock ``clk`` and a synchronous reset ``rst``, driven port by port.

    Parameters
    ----------
    sources : dict      file name to Verilog text
    top : str           top module
    cache_dir : Path    of builds; None: the user's cache

    Members
    -------
    sim : PyVerilator   the object itself, for its collections (``sim.io``) and VCD traces. It does not
          evaluate at each write

    Raises
    ------
    ToolError, SimulationError   If PyVerilator or a tool is missing, or the design cannot be built.
    """

    def __init__(self, sources: dict[str, str], top: str, cache_dir: Path | None = None) -> None:
        package = load_pyverilator()
        ports = module_ports(sources, top)
        inputs, outputs = (
            [(cpp_name(name), bits) for name, direction, bits in ports if direction == which]
            for which in ("input", "output")
        )
        wrapper = sys.modules["pyverilator.verilatorcpp"].template_cpp(
            top, inputs, outputs, [], json.dumps(json.dumps(None))
        )
        # Its own handler of $finish, which generated designs do not call, would meet the runtime library's.
        wrapper = wrapper.replace("void vl_finish (", "void pyverilator_finish (")
        library = str(build(sources, top, wrapper, cache_dir, trace="vcd"))
        # A process loads a library once, and Verilator refuses a second model of it once time has begun.
        ctypes.c_double.in_dll(ctypes.CDLL(library), "main_time").value = 0
        self.sim = package.PyVerilator(library)
        self.sim.auto_eval = False
        self._signals = {"".join(path): signal for path, signal in self.sim.all_signals.items()}

    def read(self, name: str) -> int:
        """A port's value; an output's as of the last `settle` or `tick`."""
        return self._signals[name].value

    def write(self, name: str, value: int) -> None:
        """Set an input; its effect shows after `settle` or `tick`.

        Raises
        ------
        ValueError   If the value is negative or wider than the port.
        """
        signal = self._signals[name]
        if not 0 <= value < 1 << signal.width:
            raise ValueError(f"{name} must be from 0 to {(1 << signal.width) - 1}, not {value}")
        signal.write(value)

    def settle(self) -> None:
        """Let inputs take effect without a clock edge."""
        self.sim.eval()

    def tick(self, cycles: int = 1) -> None:
        """So many rising edges."""
        clock = self._signals["clk"]
        for _ in range(cycles):
            for level in (1, 0):
                clock.write(level)
                self.sim.eval()

    def reset(self, cycles: int = 4) -> None:
        """Hold `rst` for so many cycles."""
        self.write("rst", 1)
        self.tick(cycles)
        self.write("rst", 0)
        self.settle()


class PyVerilatorDevice:
    """One core as a `host.device.Device`, with its external memory and its host modelled in Python.

    Memory takes one address and one beat of each direction per cycle and answers from the next cycle on, in
    order.

    Parameters
    ----------
    arch : ArchConfig
    memory_bytes : int   external memory, from address 0
    cache_dir : Path     see `PyVerilatorModel`

    Members
    -------
    model : PyVerilatorModel   model of the core
    cycles : int               clock cycles since the first reset

    Raises
    ------
    ToolError, SimulationError   see `PyVerilatorModel`
    """

    def __init__(self, arch: ArchConfig, memory_bytes: int = 1 << 22, cache_dir: Path | None = None) -> None:
        self.arch = arch
        self.model = PyVerilatorModel(generate(arch, cache_dir=cache_dir).sources, "core", cache_dir)
        self.memory_bytes = memory_bytes
        self.memory = bytearray(memory_bytes)
        self.cycles = 0
        #: Beats to come, as (address, last of its burst); bursts to be written, as their next address;
        #: responses owed.
        self._reads: deque[tuple[int, int]] = deque()
        self._writes: deque[int] = deque()
        self._responses = 0
        self.model.reset()
        for name in ("axi__arready", "axi__awready", "csr__bready", "csr__rready"):
            self.model.write(name, 1)

    def write(self, addr: int, data: bytes) -> None:
        """Copy bytes into external memory; takes no simulated time."""
        self.memory[self._range(addr, len(data))] = data

    def read(self, addr: int, size: int) -> bytes:
        """Bytes of external memory; takes no simulated time."""
        return bytes(self.memory[self._range(addr, size)])

    def csr_read(self, name: str) -> int:
        """A register by name, over AXI4-Lite."""
        self._offer({"csr__araddr": CSRS[name].address}, "csr__ar")
        return self._answer("csr__r", "csr__rdata", name)

    def csr_write(self, name: str, value: int) -> None:
        """Set a register by name, over AXI4-Lite."""
        self._offer(
            {"csr__awaddr": CSRS[name].address, "csr__wdata": int(value), "csr__wstrb": 15},
            "csr__aw",
            "csr__w",
        )
        self._answer("csr__b", None, name)

    def start(self) -> None:
        """Begin executing at ENTRY."""
        self.csr_write("CONTROL", Control.START)

    def wait(self, timeout_cycles: int | None = None) -> None:
        """Until the core neither runs nor drains.

        Raises
        ------
        OutOfCyclesError   If it still runs after `timeout_cycles`.
        """
        begin = self.cycles
        while self.csr_read("STATUS") & (Status.RUNNING | Status.DRAINING):
            if timeout_cycles is not None and self.cycles - begin > timeout_cycles:
                raise OutOfCyclesError(timeout_cycles)
            for _ in range(64):
                self._cycle()

    def reset(self) -> None:
        """CONTROL.RESET, and wait until the core is idle."""
        self.csr_write("CONTROL", Control.RESET)
        self.wait(100_000)

    # -- buses
    # --------------------------------------------------------------------------------------------------------
    def _offer(self, values: dict[str, int], *channels: str) -> None:
        """Offer on channels at once, until each has been taken."""
        for name, value in values.items():
            self.model.write(name, value)
        left = set(channels)
        for channel in left:
            self.model.write(f"{channel}valid", 1)
        for _ in range(_LIMIT):
            taken = self._cycle({f"{channel}ready" for channel in left})
            for ready, value in taken.items():
                if value:
                    channel = ready.removesuffix("ready")
                    self.model.write(f"{channel}valid", 0)
                    left.discard(channel)
            if not left:
                return
        raise DeviceError(f"the CSRs do not take an offer on {', '.join(sorted(left))}")

    def _answer(self, channel: str, data: str | None, register: str) -> int:
        names = {f"{channel}valid", f"{channel}resp"} | ({data} if data else set())
        for _ in range(_LIMIT):
            seen = self._cycle(names)
            if seen[f"{channel}valid"]:
                if seen[f"{channel}resp"]:
                    raise DeviceError(f"register {register} answered with response {seen[f'{channel}resp']}")
                return seen[data] if data else 0
        raise DeviceError(f"register {register} does not answer")

    def _cycle(self, watched: set[str] = frozenset()) -> dict[str, int]:
        """One clock cycle; returns the watched ports' values in it."""
        model, width = self.model, self.arch.bus_bytes
        beat = self._reads[0] if self._reads else None
        if beat is not None:
            model.write("axi__rdata", int.from_bytes(self._bytes(beat[0], width), "little"))
            model.write("axi__rlast", beat[1])
        model.write("axi__rvalid", beat is not None)
        model.write("axi__bvalid", self._responses > 0)
        # A beat without its burst has to wait for the address.
        model.write("axi__wready", bool(self._writes))
        model.settle()
        seen = {name: model.read(name) for name in watched}
        if beat is not None and model.read("axi__rready"):
            self._reads.popleft()
        self._responses -= self._responses > 0 and model.read("axi__bready")
        if self._writes and model.read("axi__wvalid"):
            self._take_beat(width)
        if model.read("axi__arvalid"):
            first, last = model.read("axi__araddr"), model.read("axi__arlen")
            self._reads.extend((first + i * width, int(i == last)) for i in range(last + 1))
        if model.read("axi__awvalid"):
            self._writes.append(model.read("axi__awaddr"))
        model.tick()
        self.cycles += 1
        return seen

    def _take_beat(self, width: int) -> None:
        at, data, strobe = (
            self._writes[0],
            self.model.read("axi__wdata").to_bytes(width, "little"),
            self.model.read("axi__wstrb"),
        )
        self._range(at, width)
        for lane in range(width):
            if strobe >> lane & 1:
                self.memory[at + lane] = data[lane]
        if self.model.read("axi__wlast"):
            self._writes.popleft()
            self._responses += 1
        else:
            self._writes[0] = at + width

    def _bytes(self, addr: int, size: int) -> bytes:
        return self.memory[self._range(addr, size)]

    def _range(self, addr: int, size: int) -> slice:
        if not 0 <= addr <= addr + size <= len(self.memory):
            raise DeviceError(
                f"bytes {addr} to {addr + size} lie outside the memory of {len(self.memory)} bytes"
            )
        return slice(addr, addr + size)

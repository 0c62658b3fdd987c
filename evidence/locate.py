"""Where a backend first goes wrong: layer, instruction, cycle, beat and element, with a waveform of that
window.

RTL is held against the machine (`lockstep`); the machine against the reference, by what each instruction
leaves in the tensors' places. A difference of the first kind is the hardware's, one of the second the
compiler's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from systolith.compiler.driver import residences
from systolith.compiler.lower.context import Residence
from systolith.host.device import Core, DeviceError
from systolith.host.driver import Driver, memory_needed
from systolith.reference.graph import QGraph
from systolith.reference.machine import Effect
from systolith.reference.machine_device import MachineDevice
from systolith.reference.plan import Plan, ReferenceCores
from systolith.spec.image import Image
from systolith.spec.isa import Instr, IsaError, isa_for
from systolith.spec.memory import FULL_RATE, MemoryTiming
from systolith.spec.outputs import OutputError, aside
from systolith.spec.plan import CoreStep, transfers

__all__ = ["Location", "Tracing", "locate_machine", "locate_rtl"]

#: Cycles of a waveform before the first wrong beat and after it; and how far back an instruction's beginning
#: may lie to be shown too.
BEFORE, AFTER, REACH = 200, 50, 1000
#: Cycles that a model without optimisation simulates in a few seconds.
_SHORT = 200_000

Arrays = Mapping[str, np.ndarray]
Progress = Callable[[str], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """The first thing that a backend did wrong.

    Parameters
    ----------
    kind             : as `lockstep.Finding`
    stream           : 'load' or 'run'
    step             : number of the step, from 1, whose run stream it is; None where the plan has but one
    layer, nodes     : name, and nodes of the model; None and () where the instruction belongs to no layer
    offset, text     : place of the instruction in the PROGRAM region; its assembly
    engine, ordinal  : who executes it; how many of that engine's instructions come before it in the stream
    cycle, begin     : since START, of the first wrong beat and of the instruction's first write; None without
                       a clock
    memory, address, lane, expected, got, instead, writes, tokens : as `lockstep.Finding`; bytes from the
    first of the
                       memory (DATA region for 'data'), or entries of accumulators
    tensor, index    : the element at that address, where it is one of a tensor's
    sums             : the MATMULs whose sums a wrong OUTPUT of a program took, which may be the wrong
                       ones
    waveform         : the file, or None
    window           : cycles in it, first and last, since START
    time             : time of the first wrong beat, in the waveform's unit of time
    trouble          : why there is no waveform, where one was asked for
    """

    kind: str
    stream: str
    layer: str | None
    nodes: tuple[str, ...]
    offset: int
    text: str
    engine: str | None
    ordinal: int
    cycle: int | None = None
    begin: int | None = None
    memory: str = ""
    address: int = 0
    lane: int = 0
    expected: int | None = None
    got: int | None = None
    instead: int | None = None
    writes: int = 0
    tokens: tuple[tuple[str, int, int], ...] = ()
    tensor: str | None = None
    index: tuple[int, ...] = ()
    sums: tuple[int, ...] = ()
    waveform: str | None = None
    window: tuple[int, int] | None = None
    time: int | None = None
    trouble: str | None = None
    step: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def brief(self) -> str:
        """Layer, instruction and cycle, on one line."""
        layer = f"layer {self.layer!r}, " if self.layer is not None else ""
        clock = f", cycle {self.cycle:,}" if self.cycle is not None else ""
        return f"{layer}instruction 0x{self.offset:05x} ({self.text.partition(' ')[0]}){clock}"

    def rows(self) -> list[tuple[str, str]]:
        """The report: what it is, and the text."""
        clock = f", cycle {self.cycle:,} since START" if self.cycle is not None else ""
        of_step = f" of step {self.step}" if self.step is not None else ""
        owner = f"{self.engine}, number {self.ordinal}" if self.engine else "no engine"
        rows = [
            (
                "where",
                f"{self.stream} stream{of_step}{clock}"
                + (f", time {self.time:,} in the waveform" if self.time is not None else ""),
            ),
            (
                "layer",
                (f"{self.layer!r}" + (f", nodes {', '.join(self.nodes)}" if self.nodes else ""))
                if self.layer is not None
                else "none",
            ),
            ("instruction", f"0x{self.offset:05x} ({owner}): {self.text}"),
            ("what", self.what()),
        ]
        if self.tensor is not None:
            rows.append(("element", f"{self.tensor!r} {list(self.index)}"))
        if self.sums:
            rows.append(("sums of", ", ".join(f"0x{offset:05x}" for offset in self.sums)))
        for engine, offset, cycle in self.tokens:
            rows.append(("token", f"of {engine}: given by 0x{offset:05x} in cycle {cycle:,}"))
        if self.waveform is not None and self.window is not None:
            rows.append(("waveform", f"{self.waveform}: cycles {self.window[0]:,} to {self.window[1]:,}"))
        if self.trouble is not None:
            rows.append(("waveform", f"none: {self.trouble}"))
        return rows

    def what(self) -> str:
        """One clause on what is wrong."""
        unit = {
            "acc": "accumulator entry",
            "read": "accumulator entry",
            "chain": "chunk to VECTOR number",
            "data": "byte of the DATA region",
        }
        place = f"{unit.get(self.memory, f'byte of the {self.memory} SRAM')} {self._at(self.address)}"
        column = f" column {self.lane}" if self.memory in ("acc", "read") else f" lane {self.lane}"
        verb = "read from" if self.memory == "read" else "written to"
        instead = f"; {self._at(self.instead)} is left out" if self.instead is not None else ""
        if self.kind == "wrong":
            return f"{self.got} {verb} {place},{column}: expected {self.expected}{instead}"
        if self.kind == "extra":
            return f"{self.got} {verb} {place},{column}, which this instruction does not touch{instead}"
        if self.kind == "missing":
            return f"{place} not written: expected {self.expected}"
        if self.kind == "unfinished":
            return (
                f"never finishes, though every instruction before it has: {self.writes} beats written, "
                f"nothing happens after this cycle"
            )
        return (
            "the bus protocol is broken while this is the oldest instruction"
            if self.kind == "protocol"
            else "the core stops here with an error"
        )

    def _at(self, address: int | None) -> str:
        return str(address) if self.memory in ("acc", "read", "chain") else f"0x{address:05x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """The simulated core in which the first difference is searched, and what is kept of it.

    Parameters
    ----------
    sources  : Verilog of the core, if not the generated one; its trace ports must be there
    memory   : external memory of the simulated core
    waveform : file for the window around the first difference, .vcd or .fst; None writes none
    progress : called with one line of text at each stage
    max_cycles : budget of one stream; None: see `host.budget`
    """

    sources: dict[str, str] | None = None
    memory: MemoryTiming = FULL_RATE
    waveform: str | Path | None = None
    progress: Progress = None
    max_cycles: int | None = None


# -- RTL against machine
# ------------------------------------------------------------------------------------------
def locate_rtl(model: QGraph | Plan, image: Image, inputs: Arrays, tracing: Tracing) -> Location | None:
    """The first beat of the RTL that the machine does not write, in any core step, or None if there is none.

    Parameters
    ----------
    inputs : int8 values of what the host writes for the core steps, by name

    Raises
    ------
    DeviceError       If the Verilog lacks trace ports.
    SimulationError   If it cannot be built.
    """
    from systolith.evidence.finding import Found
    from systolith.evidence.lockstep import Lockstep, Replay
    from systolith.sim.native import RtlDevice, Waveform
    from systolith.sim.verilator import SimulationError

    def run(device: Core) -> None:
        driver = Driver(device, image, max_cycles=tracing.max_cycles, memory=tracing.memory)
        for core, moved in enumerate(transfers(image.steps, ())):
            driver.run_int8({name: inputs[name] for name in moved.write}, core, read=())

    memory, waveform = tracing.memory, tracing.waveform
    core = functools.partial(
        RtlDevice,
        image.arch,
        latency=memory.latency,
        bytes_per_cycle=memory.bytes_per_cycle,
        sources=tracing.sources,
    )
    with core() as rtl:
        device = Lockstep(rtl, _machine(image))
        try:
            run(device)
        except Found as found:
            finding, begin = found.finding, device.begin
        else:
            return None
    location = _locate(
        Plan.of(model),
        image,
        finding.kind,
        finding.offset,
        cycle=finding.cycle - begin,
        begin=finding.begin - begin,
        memory=finding.space,
        address=finding.address,
        lane=finding.lane,
        expected=finding.expected,
        got=finding.got,
        instead=finding.instead,
        writes=finding.writes,
        tokens=tuple((engine.name, offset, cycle - begin) for engine, offset, cycle in finding.tokens),
    )
    if waveform is None:
        return location
    if tracing.progress is not None:
        tracing.progress("writing a waveform of the first difference")
    first, last = max(0, finding.cycle - BEFORE), finding.cycle + AFTER
    if finding.cycle - finding.begin <= REACH:
        first = max(0, min(first, finding.begin - 10))
    # Compiling takes longer than a short run, simulating longer than the compilation of a long one.
    optimise = "-O0" if last < _SHORT else "-O1"
    try:
        with (
            aside(waveform) as part,
            core(waveform=Waveform(part, first, last + 1), optimise=optimise) as rtl,
        ):
            # A core that hangs or breaks the bus may stop before the window ends.
            with contextlib.suppress(DeviceError, SimulationError):
                run(Replay(rtl, _machine(image), last + 1))
            with contextlib.suppress(SimulationError):
                rtl.run(max(0, last + 1 - rtl.cycle))
            last = min(last, rtl.cycle - 1)
    except (SimulationError, OutputError) as error:
        # The place stands, whatever happens to its picture.
        return dataclasses.replace(location, trouble=str(error).partition("\n")[0])
    return dataclasses.replace(
        location, waveform=str(waveform), window=(first - begin, last - begin), time=2 * finding.cycle
    )


def _machine(image: Image) -> MachineDevice:
    return MachineDevice(image.arch, memory_bytes=memory_needed(image))


# -- machine against reference
# --------------------------------------------------------------------------------------
def locate_machine(model: QGraph | Plan, image: Image, inputs: Arrays) -> Location | None:
    """The first instruction that leaves a wrong byte in a tensor's place, in any core step, or None if each
    tensor is right.

    Parameters
    ----------
    inputs : int8 values of what the host writes for the core steps, by name
    """
    plan = Plan.of(model)
    record = _Record(image)
    device = _machine(image)
    device.on_instruction = record
    reference, places = ReferenceCores(plan), residences(plan, image.arch)
    driver: Driver | None = None
    for core, moved in enumerate(transfers(image.steps, ())):
        record.begin(core)
        given = {name: inputs[name] for name in moved.write}
        try:
            driver = driver or Driver(device, image)
            driver.run_int8(given, core, read=())
        except DeviceError:
            return _locate(plan, image, "error", device.csr_read("ERROR_ADDR"))
        reference(core, given, ())
        for residence in places[core]:
            location = _compare(plan, image, core, residence, reference.tensors[core], record)
            if location is not None:
                return location
    return None


class _Record:
    """What the instructions of a core step write to the activation SRAM, and which sums each OUTPUT takes."""

    def __init__(self, image: Image) -> None:
        self._image, self._size = image, isa_for(image.arch).word_bytes
        self._summed = np.zeros(image.arch.acc_depth, np.int64)
        self.adders: dict[int, tuple[int, ...]] = {}
        self.begin(0)

    def begin(self, core: int) -> None:
        """The run stream of this core step is next."""
        self._entry = self._image.cores[core].entry
        self.writes: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, offset: int, instr: Instr, effect: Effect) -> None:
        """Called by the machine after each instruction."""
        if effect.space == "acc":
            self._summed[effect.addresses] = offset
        if instr.mnemonic == "OUTPUT":
            taken = np.unique(self._summed[instr.acc : instr.acc + instr.ny * instr.nx])
            self.adders[offset] = tuple(taken.tolist())
        if effect.space == "act" and offset >= self._entry:
            kept = np.arange(effect.rows.shape[1]) < effect.kept[:, None]
            address = effect.addresses[:, None] + np.arange(effect.rows.shape[1])
            self.writes[(offset - self._entry) // self._size] = (
                (address % self._image.arch.act_bytes)[kept],
                effect.rows.view(np.int8)[kept],
            )


def _compare(
    plan: Plan, image: Image, core: int, residence: Residence, values: Arrays, record: _Record
) -> Location | None:
    """Where a tensor, or a box of it, first got a wrong byte in the activation SRAM."""
    step, size = image.cores[core], isa_for(image.arch).word_bytes
    tensor = residence.values(values[residence.name])
    got, writer = np.zeros_like(tensor), np.full(len(tensor), -1)
    last = residence.last if residence.last is not None else step.count
    mine = [index for index in range(residence.first, last) if index in record.writes]
    for index in mine:
        address, data = record.writes[index]
        at = address - residence.address
        inside = (at >= 0) & (at < len(tensor))
        got[at[inside]], writer[at[inside]] = data[inside], index
    bad = np.flatnonzero((got != tensor) | (writer < 0))
    if not len(bad):
        return None
    written = bad[writer[bad] >= 0]
    place = int(written[np.argmin(writer[written])] if len(written) else bad[0])
    index = int(writer[place]) if len(written) else _astray(step, residence, record.writes, mine)
    offset = step.entry + index * size
    return _locate(
        plan,
        image,
        "wrong" if len(written) else "missing",
        offset,
        memory="act",
        address=residence.address + place,
        expected=int(tensor[place]),
        got=int(got[place]) if len(written) else None,
        sums=record.adders.get(offset, ()),
    )


def _astray(
    step: CoreStep,
    residence: Residence,
    writes: Mapping[int, tuple[np.ndarray, np.ndarray]],
    mine: Sequence[int],
) -> int:
    """First instruction that writes beside the result of the layer whose result has holes, else its last."""
    tensors = {layer.tensor: number for number, layer in enumerate(step.layers)}
    owned = [index for index in mine if step.owners[index] == tensors.get(residence.name, -1)]
    low, high = residence.address, residence.address + residence.bytes
    beside = [index for index in owned if ((writes[index][0] < low) | (writes[index][0] >= high)).any()]
    return (beside or owned[-1:] or [residence.first])[0]


# -- both
# ------------------------------------------------------------------------------------------------------------
def _locate(plan: Plan, image: Image, kind: str, offset: int, **rest: Any) -> Location:
    """Adds what the image and the compiler know of the instruction and of the place that it wrote."""
    isa = isa_for(image.arch)
    core = next(
        (
            number
            for number, step in enumerate(image.cores)
            if step.entry <= offset < step.entry + step.count * isa.word_bytes
        ),
        None,
    )
    entry = image.load_entry if core is None else image.cores[core].entry
    index = (offset - entry) // isa.word_bytes
    texts, engines = [], []
    # A broken core may report any offset.
    first = entry if entry <= offset <= len(image.program) else offset
    for at in range(first, offset + 1, isa.word_bytes):
        try:
            instr = isa.decode(image.program[at : at + isa.word_bytes])
            texts.append(isa.disassemble(instr))
            engines.append(isa.by_mnemonic[instr.mnemonic].engine)
        except IsaError as error:
            texts.append(str(error))
            engines.append(None)
    layer, number = None, None
    tensor: str | None = None
    element: tuple[int, ...] = ()
    if core is not None:
        step = image.cores[core]
        owner = step.owners[index]
        layer = step.layers[owner] if owner >= 0 else None
        number = image.steps.index(step) + 1 if len(image.steps) > 1 else None
        place = rest.get("memory", ""), rest.get("address", 0)
        tensor, element = _element(plan, image, core, index, *place)
    engine = engines[-1]
    return Location(
        kind=kind,
        stream="load" if core is None else "run",
        step=number,
        layer=layer.name if layer is not None else None,
        nodes=layer.nodes if layer else (),
        offset=offset,
        text=texts[-1],
        engine=engine.name if engine is not None else None,
        ordinal=engines[:-1].count(engine),
        tensor=tensor,
        index=element,
        **rest,
    )


def _element(
    plan: Plan, image: Image, core: int, index: int, memory: str, address: int
) -> tuple[str | None, tuple[int, ...]]:
    """Tensor and coordinates of a byte, as run instruction `index` of a core step sees it."""
    if memory == "act":
        tensors = plan.cores[core].graph.tensors
        for r in residences(plan, image.arch)[core]:
            here = r.first <= index and (r.last is None or index < r.last)
            if here and 0 <= address - r.address < r.bytes:
                return r.name, r.element(address - r.address, tensors[r.name].shape)
    elif memory == "data":
        for name in image.cores[core].outputs:
            io = image.formats[name]
            extents = [io.shape[axis] for axis in io.order]
            if 0 <= address - io.offset < np.prod(extents, dtype=np.int64):
                along = np.unravel_index(address - io.offset, extents)
                return io.name, tuple(int(along[io.order.index(axis)]) for axis in range(len(io.shape)))
    return None, ()

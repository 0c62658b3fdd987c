"""Recurrent cells on the Verilated core, from hand-written programs: every write and the final memory are the
machine's."""

import numpy as np
import pytest

from systolith.compiler.tokens import add_tokens
from systolith.evidence.finding import Found
from systolith.evidence.lockstep import Lockstep
from systolith.reference import machine as machine_module
from systolith.reference.hazards import check_order
from systolith.reference.machine_device import MachineDevice
from systolith.reference.params import pack_params
from systolith.sim.native import RtlDevice
from systolith.spec.cells import GATE
from systolith.spec.isa import Cell, Destination, Engine, Region, Space, isa_for
from systolith.spec.numerics import FixedFormat
from tests.graphs import ARCHS

DATA, MEMORY = 1 << 16, 1 << 18
STEPS = 4


class Program:
    """`STEPS` steps of one cell: gates = W x + U h + bias, with x of R and h of C elements; h is fed back as
    int8."""

    def __init__(self, arch, kind, units, seed):
        self.arch, self.isa, self.kind, self.units = arch, isa_for(arch), kind, units
        rng = np.random.default_rng(seed)
        self.tiles_per_gate = 1 + max(1, arch.cols // arch.rows)
        tiles = kind.gates * self.tiles_per_gate
        params = [
            pack_params(
                arch.cols,
                bias=rng.integers(-20_000, 20_000, arch.cols),
                mult=rng.integers(1 << 15, 1 << 16, arch.cols),
                shift=rng.integers(14, 18, arch.cols),
            )
            for _ in range(kind.gates)
        ]
        #: Offset of each part in DATA.
        self.parts, contents = {}, bytearray()
        for name, part in (
            ("x", rng.bytes(STEPS * arch.rows)),
            ("state", rng.bytes(2 * arch.cols)),
            ("h", rng.bytes(arch.cols)),
            ("weights", rng.bytes(-(-tiles * arch.tile_bytes // 16) * 16)),
            ("params", b"".join(params)),
            ("result", bytes(64 * 4)),
        ):
            self.parts[name] = len(contents), len(part)
            contents += part + bytes(-len(part) % 16)
        self.data = bytes(contents)

    def words(self):
        """The encoded stream."""
        arch, make, parts = self.arch, self.isa.make, self.parts
        x, low, high, h = 0, 256, 320, 384
        size, instrs = arch.act_bytes, []

        def load(name, space, base, first=0, length=None):
            offset, total = parts[name]
            instrs.append(
                make(
                    "LOAD",
                    space=space,
                    region=Region.DATA,
                    offset=offset + first,
                    base=base,
                    bytes=length or total,
                )
            )

        load("x", Space.ACT, x)
        load("state", Space.ACT, low, 0, arch.cols)
        load("state", Space.ACT, high, arch.cols, arch.cols)
        load("h", Space.ACT, h)
        load("weights", Space.WEIGHT, 0)
        load("params", Space.PARAM, 0)
        for step in range(STEPS):
            for gate in range(self.kind.gates):
                tile, common = gate * self.tiles_per_gate, {"height": 1, "row_bytes": size, "acc": gate}
                instrs.append(make("MATMUL", **common, base=x + step * arch.rows, tile=tile))
                instrs.append(
                    make(
                        "MATMUL",
                        **common,
                        base=h,
                        kt=self.tiles_per_gate - 1,
                        tile=tile + 1,
                        accumulate=1,
                        final=1,
                    )
                )
                instrs.append(
                    make(
                        "OUTPUT",
                        dest=Destination.CELL,
                        acc=gate,
                        channels=self.units,
                        param=gate,
                        zero=3,
                        low=-5,
                        high=5,
                    )
                )
            instrs.append(
                make(
                    "CELL",
                    kind=self.kind,
                    units=self.units,
                    state=low,
                    state_high=high,
                    dst=h,
                    shift=1,
                    alpha=20_000,
                )
            )
            for i, base in enumerate((low, high, h)):
                instrs.append(
                    make(
                        "STORE",
                        region=Region.DATA,
                        offset=parts["result"][0] + 64 * i + step * self.units,
                        base=base,
                        bytes=self.units,
                    )
                )
        instrs = add_tokens([*instrs, make("HALT")], arch)
        check_order(instrs, arch)
        return b"".join(map(self.isa.encode, instrs))


def prepare(device, program):
    words = program.words()
    device.write(0, words)
    device.write(DATA, program.data)
    for name, value in (
        ("PROGRAM_LO", 0),
        ("PROGRAM_HI", 0),
        ("PROGRAM_SIZE", len(words)),
        ("DATA_LO", DATA),
        ("DATA_HI", 0),
        ("DATA_SIZE", len(program.data)),
        ("ENTRY", 0),
        ("WATCHDOG", 5000),
    ):
        device.csr_write(name, value)


@pytest.mark.parametrize("stalls", [0.0, 0.3])
@pytest.mark.parametrize("kind", Cell)
@pytest.mark.parametrize("arch", ["tiny", "array8", "bus32"])
def test_rtl_gives_the_bits_of_the_machine(arch, kind, stalls):
    arch, moved = ARCHS[arch], False
    for units in {arch.cols, arch.cols - 1}:
        program = Program(arch, kind, units, seed=10 * kind + units)
        with RtlDevice(arch, stall_seed=units, stall_probability=stalls) as rtl:
            machine = MachineDevice(arch, memory_bytes=MEMORY)
            device = Lockstep(rtl, machine)
            prepare(device, program)
            device.start()
            device.wait(200_000)
            size = len(program.data)
            assert rtl.read(DATA, size) == machine.read(DATA, size)
            moved |= len(set(rtl.read(DATA + program.parts["result"][0] + 128, STEPS * units))) > 1
    assert moved, "every hidden state is the same"


def test_a_gate_that_differs_is_found_in_the_chain(monkeypatch):
    monkeypatch.setattr(machine_module, "GATE", FixedFormat(15, frac=GATE.frac))
    arch = ARCHS["tiny"]
    with RtlDevice(arch) as rtl:
        device = Lockstep(rtl, MachineDevice(arch, memory_bytes=MEMORY))
        prepare(device, Program(arch, Cell.LSTM, 2, seed=5))
        device.start()
        with pytest.raises(Found) as found:
            device.wait(200_000)
    finding = found.value.finding
    assert (finding.kind, finding.engine, finding.space) == ("wrong", Engine.OUTPUT, "chain")
    assert finding.expected in (-(1 << 14), (1 << 14) - 1)
    assert abs(finding.got) > 1 << 14

"""Programs that stop the machine, before anything is written, and what its hook tells of those that run."""

import numpy as np
import pytest

from systolith.reference.machine import MachineError
from systolith.spec.isa import Region
from systolith.spec.regs import ErrorCode
from tests.reference.machine_bench import (
    ARCHS,
    Bench,
    state,
)

ARCH = ARCHS[0]
FAR = ARCH.act_bytes


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"LOAD base={FAR - 1} bytes=2", ErrorCode.OPERAND_RANGE),
        (f"LOAD base=40 rows=2 row={FAR - 44} bytes=8", ErrorCode.OPERAND_RANGE),
        ("LOAD space=WEIGHT bytes=2", ErrorCode.OPERAND_RANGE),
        ("LOAD space=PARAM offset=2 bytes=4", ErrorCode.OPERAND_RANGE),
        ("LOAD space=TABLE base=2 bytes=4", ErrorCode.OPERAND_RANGE),
        ("LOAD space=TABLE rows=2 row=6 bytes=4", ErrorCode.OPERAND_RANGE),
        ("LOAD offset=511 bytes=2", ErrorCode.REGION),
        ("LOAD region=DATA planes=2 ext_plane=512", ErrorCode.REGION),
        ("LOAD region=DATA rows=2 ext_row=4294967295", ErrorCode.REGION),
        ("STORE region=DATA offset=512", ErrorCode.REGION),
        ("STORE region=PROGRAM", ErrorCode.REGION),
        (f"STORE region=DATA base={FAR - 3} bytes=4", ErrorCode.OPERAND_RANGE),
        (f"MATMUL acc={ARCH.acc_depth - 1} oy=2", ErrorCode.OPERAND_RANGE),
        (f"MATMUL tile={ARCH.weight_tiles - 3} ky=2 kx=2", ErrorCode.OPERAND_RANGE),
        ("MATMUL mode=DEPTHWISE kt=2", ErrorCode.ILLEGAL_INSTRUCTION),
        (f"OUTPUT acc={ARCH.acc_depth - 1} nx=2", ErrorCode.OPERAND_RANGE),
    ],
)
def test_operands_out_of_range_stop_the_machine_before_it_writes(line, code):
    bench = Bench(ARCH, 0)
    before = state(bench.machine)
    with pytest.raises(MachineError) as error:
        bench.machine.execute(bench.isa.assemble(line))
    assert error.value.code is code
    for name, memory in state(bench.machine).items():
        np.testing.assert_array_equal(memory, before[name])


@pytest.mark.parametrize(
    "line",
    [
        f"LOAD base={FAR - 2} bytes=2",
        "LOAD offset=510 bytes=2",
        "STORE region=DATA offset=511",
        f"MATMUL acc={ARCH.acc_depth - 2} oy=2",
        f"MATMUL tile={ARCH.weight_tiles - 4} ky=2 kx=2",
        f"MATMUL acc={ARCH.acc_depth - 1} ox=5 stride=5",
    ],
)
def test_operands_may_reach_the_very_end(line):
    bench = Bench(ARCH, 0)
    bench.machine.execute(bench.isa.assemble(line))


def test_the_hook_sees_every_write_as_the_hardware_makes_it():
    seen = []
    bench = Bench(ARCH, 0)
    bench.machine.on_instruction = lambda *call: seen.append(call)
    program = [
        "LOAD region=DATA rows=2 bytes=6 row=8",
        "STORE region=DATA offset=9",
        "MATMUL ox=3 final=1 acc=4",
        "OUTPUT acc=4 nx=2 channels=6 dst=20 dst_px=6",
        "OUTPUT acc=6 channels=5 dest=VECTOR",
        "ADD a_source=OUTPUT bytes=5 dst=60",
        "POOL base=4 bytes=5 height=1 row_bytes=9 dst=50",
        "HALT",
    ]
    instrs = [bench.isa.assemble(line) for line in program]
    code = np.frombuffer(b"".join(map(bench.isa.encode, instrs)), np.uint8)
    bench.machine.set_regions(code, bench.machine.regions[Region.DATA])
    bench.machine.run(0)
    word = bench.isa.word_bytes
    assert [(offset, instr) for offset, instr, _ in seen] == [
        (i * word, instr) for i, instr in enumerate(instrs[:-1])
    ]
    effects = [effect for _, _, effect in seen]
    assert [effect.space for effect in effects] == ["act", "data", "acc", "act", "chain", "act", "act"]
    assert [list(effect.addresses) for effect in effects] == [
        [0, 8],
        [9],
        [4, 5, 6],
        [20, 24, 26, 30],
        [0, 1],
        [60, 64],
        [50, 54],
    ]
    assert [list(effect.kept) for effect in effects] == [
        [6, 6],
        [1],
        [8] * 3,
        [4, 2, 4, 2],
        [4, 1],
        [4, 1],
        [4, 1],
    ]
    assert bench.machine.instructions == len(program)

"""Programs that decode and run on hardware, of which the machine says by code that it does not model them."""

import dataclasses

import numpy as np
import pytest

from systolith.reference.machine import Machine, MachineError
from systolith.spec.arch import PRESETS
from systolith.spec.isa import isa_for
from systolith.spec.regs import ErrorCode

ARCH = dataclasses.replace(PRESETS["tiny"], name="small", rows=4, cols=4, lanes=2)


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        # OUTPUT takes the entries of the two MATMULs in the other order.
        (
            ["MATMUL acc=0 final=1", "MATMUL acc=1 final=1", "OUTPUT acc=1", "OUTPUT acc=0"],
            ErrorCode.OPERAND_RANGE,
            "OUTPUT reads accumulator 1, which is not the next one released",
        ),
        (
            ["MATMUL mode=DEPTHWISE taps=2 ox=4"],
            ErrorCode.OPERAND_RANGE,
            "MATMUL takes a DEPTHWISE tile that has weights beyond its taps",
        ),
        (
            ["MATMUL ox=2 final=1", "OUTPUT nx=2 channels=1 dest=VECTOR", "ADD a_source=OUTPUT bytes=4"],
            ErrorCode.OPERAND_RANGE,
            "ADD takes rows of 4 elements from OUTPUT, which sent others",
        ),
        (
            ["MATMUL ox=4 final=1", "OUTPUT nx=4 channels=2 dest=CELL", "CELL kind=LSTM units=1"],
            ErrorCode.OPERAND_RANGE,
            "CELL takes rows of 1 elements from OUTPUT, which sent others",
        ),
        (
            ["MATMUL ox=4 final=1", "OUTPUT nx=2 channels=2 dest=CELL", "CELL kind=LSTM units=4"],
            ErrorCode.WATCHDOG,
            "CELL takes 8 chunks from OUTPUT, which sent 2",
        ),
    ],
)
def test_a_program_that_the_machine_does_not_model_stops_with_a_code(lines, code, said) -> None:
    isa = isa_for(ARCH)
    words = b"".join(isa.encode(isa.assemble(line)) for line in [*lines, "HALT"])
    machine = Machine(ARCH, np.frombuffer(words, np.uint8), np.zeros(512, np.uint8))
    machine.weight[:] = 1
    with pytest.raises(MachineError) as caught:
        machine.run(0)
    assert caught.value.code is code and said in str(caught.value)
    assert caught.value.offset < len(lines) * isa.word_bytes

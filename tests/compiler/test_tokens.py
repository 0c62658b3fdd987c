"""Tokens: enough to order every conflict, never more than a semaphore holds."""

import pytest

from systolith.compiler.tokens import add_tokens
from systolith.reference.hazards import check_order
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Engine, isa_for, semaphore_bits

ARCH = PRESETS["array8"]
MOST_TOKENS = (1 << semaphore_bits(ARCH)) - 1


@pytest.mark.parametrize("count", [MOST_TOKENS - 1, MOST_TOKENS, MOST_TOKENS + 1, 3 * MOST_TOKENS])
def test_many_results_that_are_read_one_after_another(count):
    make = isa_for(ARCH).make

    def product(base, acc):
        return make("MATMUL", base=base, height=1, row_bytes=8, oy=1, ox=1, acc=acc, final=1)

    instrs = []
    for i in range(count):
        instrs += [product(0, i), make("OUTPUT", acc=i, ny=1, nx=1, channels=8, dst=(i + 1) * 64)]
    for i in range(count):
        instrs += [
            product((i + 1) * 64, count + i),
            make("OUTPUT", acc=count + i, ny=1, nx=1, channels=8, dst=(1 << 17) + i * 64),
        ]
    ordered = add_tokens([*instrs, make("HALT")], ARCH)
    check_order(ordered, ARCH)
    waits = sum(instr.mnemonic == "MATMUL" and instr.wait >> Engine.OUTPUT & 1 for instr in ordered)
    assert 1 <= waits <= 2 * count

"""The instruction table: encoding, decoding and assembly are inverses of one another, and refuse what is
wrong."""

import dataclasses
import random

import pytest

from systolith.spec.arch import PRESETS
from systolith.spec.isa import Instr, IsaError, isa_for

BIG = dataclasses.replace(
    PRESETS["array16"], name="big", rows=32, cols=32, weight_rows_per_cycle=32, lanes=32
)
ARCHS = (*PRESETS.values(), BIG)
SEED = 1


def _random_instr(isa, mnemonic, rng):
    """An instruction with random legal operands, extremes included."""
    return isa.make(
        mnemonic,
        **{
            f.name: rng.choice((f.min, f.max, rng.randint(f.min, f.max)))
            for f in isa.by_mnemonic[mnemonic].fields
        },
    )


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.name)
def test_round_trips(arch):
    isa, rng = isa_for(arch), random.Random(SEED)
    for fmt in isa.formats:
        for _ in range(60):
            instr = _random_instr(isa, fmt.mnemonic, rng)
            word = isa.encode(instr)
            assert len(word) == isa.word_bytes
            assert isa.decode(word) == instr, f"seed {SEED}: {instr}"
            assert isa.assemble(isa.disassemble(instr) + "  # comment") == instr, f"seed {SEED}: {instr}"


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.name)
def test_fields_lie_one_after_another(arch):
    # Setting one operand to its largest code changes exactly its own bits.
    isa = isa_for(arch)
    for fmt in isa.formats:
        base = int.from_bytes(isa.encode(isa.make(fmt.mnemonic)), "little")
        used = 0
        for f in fmt.fields:
            if f.min == f.max:
                continue
            changed = 0
            for value in (f.min, f.max):
                word = int.from_bytes(isa.encode(isa.make(fmt.mnemonic, **{f.name: value})), "little")
                changed |= word ^ base
            assert changed and not changed & used, (fmt.mnemonic, f.name)
            used |= changed


def test_refusals_name_the_culprit():
    isa = isa_for(PRESETS["tiny"])
    with pytest.raises(IsaError, match=r"^unknown mnemonic 'JUMP'; known are NOP, HALT, LOAD"):
        isa.make("JUMP")
    with pytest.raises(IsaError, match=r"^OUTPUT has no operand 'colour'; it has acc, channels"):
        isa.make("OUTPUT", colour=1)
    with pytest.raises(IsaError, match=r"^MATMUL\.ky must be from 1 to 256, not 0$"):
        isa.make("MATMUL", ky=0)
    with pytest.raises(IsaError, match=r"^MATMUL\.pad must be from -128 to 127, not 128$"):
        isa.encode(Instr("MATMUL", {"pad": 128}))
    with pytest.raises(IsaError, match=r"^an empty line is no instruction$"):
        isa.assemble("  # nothing")
    with pytest.raises(IsaError, match=r"^LOAD: operand 'rows' must be written name=value$"):
        isa.assemble("LOAD rows")
    with pytest.raises(IsaError, match=r"^LOAD: operand 'rows' is given twice$"):
        isa.assemble("LOAD rows=1 rows=2")
    with pytest.raises(IsaError, match=r"^LOAD has no operand 'mnemonic'; it has base, bytes, "):
        isa.assemble("LOAD mnemonic=1 self=2")
    with pytest.raises(IsaError, match=r"^LOAD: 'MATRIX\+MATRIX' is no value for operand 'wait'$"):
        isa.assemble("LOAD wait=MATRIX+MATRIX")
    for digits in ("9" * 5000, "0x" + "f" * 5000, "x" * 5000):
        with pytest.raises(IsaError, match=r"^LOAD: '.{50,60} is no value for operand 'base'$"):
            isa.assemble(f"LOAD base={digits}")
    with pytest.raises(IsaError, match=r"^LOAD: 'MOON' is no value for operand 'space'$"):
        isa.assemble("LOAD space=MOON")


def test_decode_refuses_what_encode_cannot_give():
    isa = isa_for(PRESETS["tiny"])
    with pytest.raises(IsaError, match=rf"^an instruction has {isa.word_bytes} bytes, not 3$"):
        isa.decode(bytes(3))
    illegal = next(code for code in range(16) if code not in isa.by_opcode)
    with pytest.raises(IsaError, match=rf"^illegal opcode {illegal}$"):
        isa.decode(illegal.to_bytes(isa.word_bytes, "little"))
    halt = bytearray(isa.encode(isa.make("HALT")))
    halt[-1] = 0x80
    with pytest.raises(IsaError, match=r"^HALT has reserved bits that are not zero$"):
        isa.decode(bytes(halt))


def test_digest_follows_the_table():
    assert isa_for(PRESETS["tiny"]).digest() != isa_for(PRESETS["array8"]).digest()
    assert (
        isa_for(PRESETS["tiny"]).digest() == isa_for(dataclasses.replace(PRESETS["tiny"], name="x")).digest()
    )

"""The prover itself: what is false is refuted, what says nothing is refused, bugs are planted where they
should."""

import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal

from systolith.hw.leaf import request_slot, stream_register
from systolith.spec.arch import PRESETS
from systolith.tooling.policy import choose
from systolith.tooling.process import ToolError
from tests.formal.kit import model, solver
from tests.formal.kit.claims import Claims
from tests.formal.kit.link import crc_byte, zlib_byte
from tests.formal.kit.model import Model, ModelError
from tests.formal.kit.plant import Plant, PlantError
from tests.formal.kit.proof import Proof, ProofError
from tests.formal.kit.solver import Undecided
from tests.tooling.fakes import Fakes

PLANT = Plant("a word is lost", stream_register.__name__, "waits.eq(1)", "waits.eq(0)", "")


def proof(build: Callable[[Module, Claims], None], **changed: object) -> Proof:
    """A proof outside the list."""
    return replace(Proof("sample", "", build, (), depth=1, cycles=6, settled=0), **changed)


def counter(m: Module, claims: Claims) -> Signal:
    """Counts from 0 up to 5 where it is told, and stays there."""
    count = Signal(3)
    with m.If(claims.free(1, "goes") & (count != 5)):
        m.d.sync += count.eq(count + 1)
    claims.cover("three", count == 3)
    return count


def test_the_yosys_is_one_that_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fakes(tmp_path, monkeypatch).version("yosys", "0.23")
    test_what_holds_is_proved()
    choose("native")
    try:
        with pytest.raises(ToolError, match=r"has version 0\.23, and 0\.50 or later is needed"):
            test_what_holds_is_proved()
    finally:
        choose(None)


def test_what_holds_is_proved() -> None:
    def build(m: Module, claims: Claims) -> None:
        claims.claim("at_most_five", counter(m, claims) <= 5)

    proof(build).check()


def test_a_false_claim_is_refuted_with_its_run() -> None:
    def build(m: Module, claims: Claims) -> None:
        claims.claim("below_two", counter(m, claims) < 2)

    with pytest.raises(ProofError) as error:
        proof(build, depth=4).check()
    text = str(error.value)
    assert text.startswith("sample, from power-up: below_two fails in cycle 2; values are hexadecimal\n")
    assert any(line.split() == ["count", "0", "1", "2"] for line in text.splitlines()), text


def test_a_claim_beyond_the_base_is_not_taken_for_proved() -> None:
    def build(m: Module, claims: Claims) -> None:
        claims.claim("never_five", counter(m, claims) != 5)

    with pytest.raises(
        ProofError, match="in 1 cycles from a state that claims allow: never_five fails in cycle 1"
    ):
        proof(build).check()


def test_what_holds_but_is_not_inductive_needs_an_invariant() -> None:
    def build(m: Module, claims: Claims, *, helped: bool) -> None:
        count = counter(m, claims)
        # From 6, which is never reached, one could come to 7.
        claims.claim("not_seven", count != 7)
        if helped:
            claims.invariant("at_most_five", count <= 5)

    with pytest.raises(ProofError, match="not_seven fails"):
        proof(lambda m, claims: build(m, claims, helped=False)).check()
    proof(lambda m, claims: build(m, claims, helped=True)).check()


def test_a_false_invariant_is_refuted() -> None:
    def build(m: Module, claims: Claims) -> None:
        count = counter(m, claims)
        claims.invariant("at_most_two", count <= 2)
        claims.claim("not_seven", count != 7)

    with pytest.raises(ProofError, match="at_most_two fails"):
        proof(build).check()


def test_a_cover_that_is_not_reached_fails() -> None:
    def build(m: Module, claims: Claims) -> None:
        count = counter(m, claims)
        claims.claim("at_most_five", count <= 5)
        claims.cover("six", count == 6)

    with pytest.raises(ProofError, match="never within 6 cycles: six$"):
        proof(build).check()


def test_assumptions_that_contradict_each_other_fail() -> None:
    def build(m: Module, claims: Claims) -> None:
        count = counter(m, claims)
        goes = claims.free(1, "also_goes")
        claims.assume("goes", goes)
        claims.assume("stays", ~goes)
        claims.claim("nonsense", count == 7)

    with pytest.raises(ProofError, match="never within 6 cycles: three$"):
        proof(build).check()


@pytest.mark.parametrize("what", ["claim", "cover"])
def test_a_proof_without_claim_or_cover_is_refused(what: str) -> None:
    def build(m: Module, claims: Claims) -> None:
        flag = claims.free(1, "flag")
        if what != "claim":
            claims.claim("either", flag | ~flag)
        if what != "cover":
            claims.cover("flag", flag)

    with pytest.raises(ProofError, match="no claim, or no cover"):
        proof(build).check()


def test_constants_stay_and_free_values_do_not() -> None:
    def build(m: Module, claims: Claims, *, constant: bool) -> None:
        value = claims.constant(4, "value") if constant else claims.free(4, "value")
        before, known = Signal(4), Signal()
        m.d.sync += [before.eq(value), known.eq(1)]
        claims.claim("stays", ~known | (value == before))
        claims.cover("nine", known & (value == 9))

    proof(lambda m, claims: build(m, claims, constant=True), depth=2).check()
    with pytest.raises(ProofError, match="stays fails"):
        proof(lambda m, claims: build(m, claims, constant=False), depth=2).check()


def test_a_plant_that_breaks_nothing_is_told() -> None:
    def build(m: Module, claims: Claims) -> None:
        register = stream_register.StreamRegister(1)
        claims.design("register", register)
        claims.claim("ready_or_not", register.i.ready | ~register.i.ready)

    with pytest.raises(ProofError, match="'a word is lost' keeps 'ready_or_not' for 6 cycles"):
        proof(build).find(replace(PLANT, claim="ready_or_not"))
    with pytest.raises(ProofError, match="has no claim 'another'; it has ready_or_not"):
        proof(build).find(replace(PLANT, claim="another"))


def test_a_bug_is_planted_in_all_users_and_taken_out_again() -> None:
    right = stream_register.StreamRegister
    with PLANT.planted():
        wrong = stream_register.StreamRegister
        assert wrong is not right and request_slot.StreamRegister is wrong
    assert stream_register.StreamRegister is right and request_slot.StreamRegister is right


@pytest.mark.parametrize("old", ["no such text", "waits"])
def test_a_plant_whose_text_is_not_there_once_is_refused(old: str) -> None:
    count = inspect.getsource(stream_register).count(old)
    told = f"has '{old}' {count} times, not once"
    with pytest.raises(PlantError, match=told), replace(PLANT, old=old).planted():
        pass


def test_a_solver_that_gives_up_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(m: Module, claims: Claims) -> None:
        a, b = claims.free(32, "a"), claims.free(32, "b")
        claims.claim("a_prime", (a * b != 0xFFFFFFFFFFFFFFC5) | (a == 1) | (b == 1))
        claims.cover("a", a == 3)

    monkeypatch.setattr(solver, "_SECONDS", 0)
    with pytest.raises(Undecided, match="no answer to .*a_prime.* within 0 s of processor time"):
        proof(build).check()


def test_what_yosys_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(m: Module, claims: Claims) -> None:
        claims.claim("flag", claims.free(1, "flag"))

    monkeypatch.setattr(model, "_WRITE", "no_such_pass")
    with pytest.raises(ModelError, match="yosys failed: ERROR: No such command: no_such_pass"):
        proof(build).model()


def test_signals_inside_are_found_by_path_or_refused_by_name() -> None:
    m = Module()
    inside = Claims(m).design("slot", request_slot.RequestSlot(PRESETS["tiny"], 4))
    assert inside["register.waits"].name == "waits"
    with pytest.raises(KeyError, match="slot has no signal 'waits'; it has .*register.waits"):
        inside["waits"]
    with pytest.raises(KeyError, match="slot has 2 signals 'i__payload'"):
        inside["i__payload"]
    with pytest.raises(KeyError, match="slot has no memory 'register'"):
        inside.rows("register")
    Model.of(m, Claims(m))


def test_checksum_of_a_byte_is_that_of_zlib() -> None:
    # Both are linear, so that the bits by themselves say it of all bytes and all checksums.
    bits = [(1 << bit, 0) for bit in range(32)] + [(0, 1 << bit) for bit in range(8)]
    for crc, byte in [(0, 0), *bits]:
        assert crc_byte(crc, byte) == zlib_byte(crc, byte)
    draw = random.Random(7)
    for _ in range(1000):
        pairs = [(draw.getrandbits(32), draw.getrandbits(8)) for _ in range(2)]
        both = tuple(a ^ b for a, b in zip(*pairs, strict=True))
        for step in (crc_byte, zlib_byte):
            assert step(*both) == step(*pairs[0]) ^ step(*pairs[1]), f"seed 7: {pairs}"

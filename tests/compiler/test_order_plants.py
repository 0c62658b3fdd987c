"""The proof of order does not believe the maker of the order: a footprint that leaves something out is found
wherever a program is compiled."""

import dataclasses

import pytest

from systolith.compiler import tokens
from systolith.compiler.driver import compile_graph
from systolith.compiler.verify import VerifyError
from systolith.reference.hazards import HazardError, check_order
from systolith.spec.isa import isa_for
from tests.graphs import ARCHS, random_graph
from tests.reference.plants import PLANTS
from tests.reference.programs import ProgramMaker

#: Little room, so that much meets.
ARCH = dataclasses.replace(ARCHS["wide"], name="small", act_bytes=1 << 11)
SEEDS = range(40)


def ordered(seed):
    """A random program with its tokens."""
    program = ProgramMaker(ARCH, seed).program(60)
    return tokens.add_tokens([*program, isa_for(ARCH).make("HALT")], ARCH)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_tokens_of_random_programs_order_them(seed):
    check_order(ordered(seed), ARCH)


def refused(seed):
    try:
        check_order(ordered(seed), ARCH)
    except HazardError as error:
        assert "no token orders them" in str(error)
        return True
    return False


@pytest.mark.parametrize("plant", PLANTS)
def test_tokens_from_a_wrong_footprint_are_refused(plant, monkeypatch):
    monkeypatch.setattr(tokens, "footprint", PLANTS[plant])
    assert any(refused(seed) for seed in SEEDS)


@pytest.mark.parametrize("plant", ["MATMUL's last row of an image", "ADD's operand b"])
def test_the_compiler_refuses_its_own_tokens_from_a_wrong_footprint(plant, monkeypatch):
    monkeypatch.setattr(tokens, "footprint", PLANTS[plant])
    with pytest.raises(VerifyError, match="no token orders them"):
        for seed in range(40):
            compile_graph(random_graph(seed), ARCHS["tiny"])

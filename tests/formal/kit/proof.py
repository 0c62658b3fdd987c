# amaranth: UnusedElaboratable=no
"""What a proof is, and the list of all of them."""

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.hdl import Module

from tests.formal.kit.claims import CLAIMED, COVERED, Claims
from tests.formal.kit.model import Model
from tests.formal.kit.plant import Plant
from tests.formal.kit.solver import find, induct, reach, refute

__all__ = ["PROOFS", "Proof", "ProofError", "proof"]

Build = Callable[[Module, Claims], None]


class ProofError(AssertionError):
    """A claim that does not hold, or a proof that says nothing."""


@dataclass(frozen=True)
class Proof:
    """Claims about a design.

    Parameters
    ----------
    name, statement : str   how it is called, and what is proved
    build : function        adds the design and its claims to a module
    plants : tuple          bugs that it finds
    depth : int             cycles that the induction looks back
    cycles : int            within which each cover is reached and each plant is found, from power-up
    settled : int           if not 0, behind so many cycles in which all claims hold: power-up is far away
    """

    name: str
    statement: str
    build: Build
    plants: tuple[Plant, ...]
    depth: int
    cycles: int
    settled: int

    def built(self) -> tuple[Module, Claims]:
        """The design and its claims."""
        m = Module()
        claims = Claims(m)
        self.build(m, claims)
        return m, claims

    def model(self) -> Model:
        """The design and its claims as formulas."""
        return Model.of(*self.built())

    def check(self) -> None:
        """All claims hold in every cycle of every run, and all covers are reached.

        Raises
        ------
        ProofError   With a counterexample.
        """
        model = self.model()
        if not model.named(CLAIMED) or not model.named(COVERED):
            raise ProofError(f"{self.name} has no claim, or no cover")
        if (trace := refute(model, self.depth)) is not None:
            raise ProofError(f"{self.name}, from power-up: {trace}")
        if (trace := induct(model, self.depth)) is not None:
            raise ProofError(f"{self.name}, in {self.depth} cycles from a state that claims allow: {trace}")
        if missing := reach(model, self.cycles, self.settled):
            raise ProofError(f"{self.name}: never within {self.cycles} cycles: {', '.join(missing)}")

    def find(self, plant: Plant) -> None:
        """The proof finds a bug: there is a run that breaks the claim that the plant names.

        Raises
        ------
        ProofError   If there is none.
        """
        with plant.planted():
            model = self.model()
        if plant.claim not in (known := model.named(CLAIMED)):
            raise ProofError(f"{self.name} has no claim {plant.claim!r}; it has {', '.join(known)}")
        if find(model, plant.claim, self.cycles, self.settled) is None:
            raise ProofError(f"{self.name}: {plant.name!r} keeps {plant.claim!r} for {self.cycles} cycles")


#: All proofs, in the order in which their modules are imported.
PROOFS: dict[str, Proof] = {}


def proof(*plants: Plant, depth: int = 1, cycles: int = 6, settled: int = 0) -> Callable[[Build], Build]:
    """Enters a function that builds a proof in the list; its name is the proof's, its docstring the
    statement."""

    def enter(build: Build) -> Build:
        name, statement = build.__name__, " ".join((build.__doc__ or "").split())
        assert statement and plants, f"the proof {name} needs a statement and a planted bug"
        assert name not in PROOFS, f"two proofs are called {name}"
        # Else a plant could be found in a state that the unchanged design breaks as well.
        assert not settled or settled >= depth, f"the proof {name} must settle for {depth} cycles"
        PROOFS[name] = Proof(name, statement, build, plants, depth, cycles, settled)
        return build

    return enter

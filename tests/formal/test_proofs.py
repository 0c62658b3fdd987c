"""Every proof holds and reaches its covers, and finds each bug that is planted."""

import pytest

from tests.formal import proofs
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import PROOFS, Proof

assert proofs, "importing them enters them in the list"


def _marks(proof: Proof) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.slow,) if proof.slow else ()


@pytest.mark.parametrize(
    "proof", [pytest.param(proof, id=name, marks=_marks(proof)) for name, proof in PROOFS.items()]
)
def test_holds(proof: Proof) -> None:
    proof.check()


@pytest.mark.parametrize(
    "proof, plant",
    [
        pytest.param(proof, plant, id=f"{name}-{plant.name.replace(' ', '_')}", marks=_marks(proof))
        for name, proof in PROOFS.items()
        for plant in proof.plants
    ],
)
def test_finds(proof: Proof, plant: Plant) -> None:
    proof.find(plant)

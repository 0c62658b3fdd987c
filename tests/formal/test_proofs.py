"""Every proof holds for ever and reaches its covers, and finds each bug that is planted."""

import pytest

from tests.formal import proofs
from tests.formal.kit import second
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import PROOFS, Proof

assert proofs, "importing them enters them in the list"

ALL = [pytest.param(proof, id=name) for name, proof in PROOFS.items()]
PLANTS = [
    pytest.param(proof, plant, id=f"{name}-{plant.name.replace(' ', '_')}")
    for name, proof in PROOFS.items()
    for plant in proof.plants
]


@pytest.mark.parametrize("proof", ALL)
def test_holds(proof: Proof) -> None:
    proof.check()


@pytest.mark.parametrize("proof, plant", PLANTS)
def test_finds(proof: Proof, plant: Plant) -> None:
    proof.find(plant)


@pytest.mark.slow
@pytest.mark.parametrize("proof", ALL)
def test_another_prover_agrees(proof: Proof) -> None:
    assert second.holds(proof)


@pytest.mark.parametrize("plant", PROOFS["stream_register"].plants, ids=lambda plant: plant.name)
def test_another_prover_finds(plant: Plant) -> None:
    proof = PROOFS["stream_register"]
    assert second.holds(proof)
    with plant.planted():
        assert not second.holds(proof)

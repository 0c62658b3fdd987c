"""A second prover: yosys's own `sat`, with its own unrolling and MiniSat."""

from systolith.tooling.cache import Cache
from tests.formal.kit.model import ModelError, yosys
from tests.formal.kit.proof import Proof

__all__ = ["holds"]

#: Cycles more than the first prover needs: this one shows all claims at once.
_MORE = 4


def holds(proof: Proof) -> bool:
    """Whether k-induction with MiniSat shows all claims and invariants of a proof.

    Raises
    ------
    ModelError   If yosys does not get so far.
    """
    steps = proof.depth + _MORE
    prove = f"sat -verify -tempinduct -prove-asserts -set-assumes -seq 0 -maxsteps {steps} top"
    with Cache().scratch("formal") as folder:
        try:
            yosys(*proof.built(), f"chformal -cover -remove; opt -fast; {prove}", folder)
        except ModelError as error:
            if "proof did fail" in str(error):
                return False
            raise
    return True

"""The proofs, a file per subject; all are entered in `kit.proof.PROOFS`."""

from tests.formal.proofs import arbiters, cell, loops, queues, rounding, streams, walker

__all__ = ["arbiters", "cell", "loops", "queues", "rounding", "streams", "walker"]

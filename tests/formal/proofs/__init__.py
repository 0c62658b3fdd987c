"""The proofs, a file per subject; all are entered in `kit.proof.PROOFS`."""

from tests.formal.proofs import streams

__all__ = ["streams"]

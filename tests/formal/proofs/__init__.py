"""The proofs, a file per subject; all are entered in `kit.proof.PROOFS`."""

from tests.formal.proofs import (
    arbiters,
    cell,
    csr,
    link_answers,
    link_checksum,
    link_requests,
    loops,
    queues,
    rounding,
    sequencer,
    streams,
    walker,
)

__all__ = [
    "arbiters",
    "cell",
    "csr",
    "link_answers",
    "link_checksum",
    "link_requests",
    "loops",
    "queues",
    "rounding",
    "sequencer",
    "streams",
    "walker",
]

"""Writes the list of proofs in docs/verification.md, with the time that each takes."""

import os
import sys

from tests.formal import proofs
from tests.formal.kit.proof import PROOFS
from tests.formal.listing import PAGE, exchanged, rows

assert proofs, "importing them enters them in the list"


def _processor() -> float:
    """Processor time of this process and of those that it has waited for, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Proves everything, finds every plant, and writes what was proved and how long it took."""
    seconds = {}
    for name, proof in PROOFS.items():
        begin = _processor()
        proof.check()
        proved = _processor()
        for plant in proof.plants:
            proof.find(plant)
        seconds[name] = (proved - begin, _processor() - proved)
        print(f"{name}: {seconds[name][0]:.1f} s, its plants {seconds[name][1]:.1f} s", file=sys.stderr)
    text = exchanged(PAGE.read_text(encoding="utf-8"), rows(PROOFS.values(), seconds))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

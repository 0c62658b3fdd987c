"""Faults of `footprint`: each leaves out what an instruction touches, or says that it is only read."""

from systolith.reference.footprint import footprint
from systolith.spec.isa import isa_for

__all__ = ["PLANTS"]


def _without(mnemonic, space, writes, count=None):
    """Leaves out an instruction's reads, or writes, of one memory; of several the one with that number."""

    def planted(instr, arch):
        prints = footprint(instr, arch)
        if instr.mnemonic != mnemonic:
            return prints
        of = [p for p in prints if p[0] == space and p[3] == writes]
        gone = of if count is None else of[count : count + 1]
        return [p for p in prints if p not in gone]

    return planted


def _changed(mnemonic, **smaller):
    """Takes an operand for less than it is."""

    def planted(instr, arch):
        if instr.mnemonic != mnemonic:
            return footprint(instr, arch)
        operands = {name: less(instr.operands[name]) for name, less in smaller.items()}
        return footprint(isa_for(arch).make(mnemonic, **{**instr.operands, **operands}), arch)

    return planted


def _as_read(mnemonic, space):
    """Takes what an instruction writes to one memory for reads."""

    def planted(instr, arch):
        return [
            (of, low, high, writes and (instr.mnemonic, of) != (mnemonic, space))
            for of, low, high, writes in footprint(instr, arch)
        ]

    return planted


def _less(value):
    return max(1, value - 1)


#: What is wrong, and the footprint that is wrong so.
PLANTS = {
    "MATMUL's last row of an image": _changed("MATMUL", height=lambda rows: max(0, rows - 1)),
    "MATMUL's last output row": _changed("MATMUL", oy=_less),
    "MATMUL's last chunk": _changed("MATMUL", kt=_less),
    "MATMUL's vectors": _without("MATMUL", "act", False),
    "MATMUL's weights": _without("MATMUL", "weight", False),
    "MATMUL's sums": _without("MATMUL", "acc", True),
    "OUTPUT's sums": _without("OUTPUT", "acc", False),
    "OUTPUT's parameters": _without("OUTPUT", "param", False),
    "OUTPUT's table": _without("OUTPUT", "table", False),
    "OUTPUT's results": _without("OUTPUT", "act", True),
    "OUTPUT's last channel": _changed("OUTPUT", channels=_less),
    "OUTPUT's results are reads": _as_read("OUTPUT", "act"),
    "ADD's operand a": _without("ADD", "act", False, 1),
    "ADD's operand b": _without("ADD", "act", False, 0),
    "ADD's results": _without("ADD", "act", True),
    "ADD's table": _without("ADD", "table", False),
    "MUL's operand a": _without("MUL", "act", False, 1),
    "MUL's operand b": _without("MUL", "act", False, 0),
    "MUL's results": _without("MUL", "act", True),
    "MUL's table": _without("MUL", "table", False),
    "POOL's window": _without("POOL", "act", False),
    "POOL's last window row": _changed("POOL", ky=_less),
    "POOL's results": _without("POOL", "act", True),
    "POOL's table": _without("POOL", "table", False),
    "CELL's state": _without("CELL", "act", True, 0),
    "CELL's high bytes of the state": _without("CELL", "act", True, 1),
    "CELL's hidden state": _without("CELL", "act", True, 2),
    "CELL's low bytes of the hidden state": _without("CELL", "act", True, 3),
    "LOAD to the activations": _without("LOAD", "act", True),
    "LOAD to the weights": _without("LOAD", "weight", True),
    "LOAD to the parameters": _without("LOAD", "param", True),
    "LOAD to the tables": _without("LOAD", "table", True),
    "LOAD's source": _without("LOAD", "data", False),
    "LOAD's last row": _changed("LOAD", rows=_less),
    "STORE's source": _without("STORE", "act", False),
    "STORE's target": _without("STORE", "data", True),
    "STORE's last plane": _changed("STORE", planes=_less),
}

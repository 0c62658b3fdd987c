"""A counterexample: the values of signals, cycle by cycle."""

from dataclasses import dataclass

from tests.formal.kit.claims import ASSUMED, CLAIMED, COVERED, INVARIANT

__all__ = ["Trace"]


@dataclass(frozen=True)
class Trace:
    """A run whose last cycle breaks claims.

    Parameters
    ----------
    claims : tuple   names of those that it breaks
    cycles : int
    values : dict    wire -> its value in each cycle
    """

    claims: tuple[str, ...]
    cycles: int
    values: dict[str, tuple[int, ...]]

    def __str__(self) -> str:
        """What fails, and a table of all that was chosen or moved; a signal's twins are left out."""
        hidden = (ASSUMED, CLAIMED, INVARIANT, COVERED)
        shown: dict[tuple[int, ...], str] = {}
        constant = []
        for name, values in sorted(self.values.items(), key=lambda item: (item[0].count("."), item[0])):
            if name.startswith(hidden) or name.rpartition(".")[2] == "clk":
                continue
            if len(set(values)) > 1:
                shown.setdefault(values, name)
            elif values[0]:
                constant.append(f"{name}={values[0]:x}")
        width = max((len(f"{value:x}") for values in shown for value in values), default=1)
        width = max(width, len(str(self.cycles - 1)))
        label = max((len(name) for name in shown.values()), default=0)
        head = " " * label + "".join(f" {cycle:>{width}}" for cycle in range(self.cycles))
        rows = (
            f"{name:<{label}}" + "".join(f" {value:>{width}x}" for value in values)
            for values, name in shown.items()
        )
        verb = "fails" if len(self.claims) == 1 else "fail"
        return "\n".join(
            [
                f"{', '.join(self.claims)} {verb} in cycle {self.cycles - 1}; values are hexadecimal",
                head,
                *rows,
                "constant: " + (", ".join(constant) or "none"),
            ]
        )

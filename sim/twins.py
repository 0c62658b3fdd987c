"""Two descriptions of one design side by side: the same inputs, and whether their outputs are equal.

So a netlist is held against its RTL bit for bit and cycle for cycle, whatever a bench drives and whatever
it looks at.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from systolith.sim.verilator import SimulationError, build, cpp_name, module_ports

__all__ = ["DIFFERS", "drive_at_random", "side_by_side"]

#: Output of the pair: 1 while any output differs; with the name of one behind it, that one does.
DIFFERS = "differs"


def side_by_side(first: dict[str, str], second: dict[str, str], top: str) -> tuple[dict[str, str], str]:
    """A module with the ports of both, driven by the second, and `DIFFERS`.

    Parameters
    ----------
    first : dict    file name to Verilog text
    second : dict   the same; it may share no module with the first but the top module
    top : str       top module of both

    Returns
    -------
    design : (sources, top)   top module ``<top>_twins``

    Raises
    ------
    SimulationError   If their ports are not the same.
    """
    ports = module_ports(first, top)
    if sorted(ports) != sorted(module_ports(second, top)):
        raise SimulationError(f"the two descriptions of {top} have different ports")
    outputs = [(name, bits) for name, direction, bits in ports if direction == "output"]
    signals = [*ports, (DIFFERS, "output", 1), *((f"{DIFFERS}__{name}", "output", 1) for name, _ in outputs)]
    lines = [f"module {top}_twins({', '.join(name for name, *_ in signals)});"]
    lines += [f"  {direction} [{bits - 1}:0] {name};" for name, direction, bits in signals]
    for name, bits in outputs:
        lines += [
            f"  wire [{bits - 1}:0] first__{name};",
            f"  assign {DIFFERS}__{name} = first__{name} != {name};",
        ]
    for module, instance in ((top, "first"), (f"{top}_second", "second")):
        pins = (
            f".{name}({'first__' if instance == 'first' and direction == 'output' else ''}{name})"
            for name, direction, _ in ports
        )
        lines.append(f"  {module} {instance}({', '.join(pins)});")
    lines += [f"  assign {DIFFERS} = {' | '.join(f'{DIFFERS}__{name}' for name, _ in outputs)};", "endmodule"]
    renamed = {
        f"second_{name}": re.sub(
            rf"^module\s+\\?{re.escape(top)}\b", f"module {top}_second", text, flags=re.MULTILINE
        )
        for name, text in second.items()
    }
    return {f"{top}_twins.v": "\n".join(lines) + "\n", **first, **renamed}, f"{top}_twins"


_HARNESS = """\
#include "V{top}.h"
#include <random>

// Cycle of the first difference, -1 where there is none. A port is 0, all ones, or anything.
extern "C" long long run(unsigned long long seed, long long cycles) {{
    VerilatedContext context;
    V{top} dut(&context);
    std::mt19937_64 random(seed);
    auto draw = [&](int bits) {{
        unsigned long long mask = bits == 64 ? ~0ull : (1ull << bits) - 1, kind = random() % 8;
        return (kind == 0 ? 0 : kind == 1 ? ~0ull : random()) & mask;
    }};
    for (long long cycle = 0; cycle < cycles; cycle++) {{
        dut.clk = 0;
        dut.rst = cycle < 2;
{draws}
        dut.eval();
        if (cycle >= 2 && dut.{differs}) return cycle;
        dut.clk = 1;
        dut.eval();
    }}
    return -1;
}}
"""


def drive_at_random(
    design: tuple[dict[str, str], str], cycles: int, seed: int, cache_dir: Path | None = None
) -> int | None:
    """Random values at every input of a pair, at most 64 bits each, in every cycle.

    Returns
    -------
    cycle : int   cycle of the first difference after reset; None where there is none

    Raises
    ------
    SimulationError, ToolError   see `sim.verilator.build`; also if an input is wider
    """
    sources, top = design
    inputs = [
        (name, bits)
        for name, direction, bits in module_ports(sources, top)
        if direction == "input" and name not in ("clk", "rst")
    ]
    if wide := [name for name, bits in inputs if bits > 64]:
        raise SimulationError(f"input {wide[0]} of {top} has more than 64 bits")
    draws = "\n".join(f"        dut.{cpp_name(name)} = draw({bits});" for name, bits in inputs)
    harness = _HARNESS.format(top=top, draws=draws, differs=cpp_name(DIFFERS))
    run = ctypes.CDLL(str(build(sources, top, harness, cache_dir, optimise="-O0"))).run
    run.restype, run.argtypes = ctypes.c_longlong, (ctypes.c_ulonglong, ctypes.c_longlong)
    cycle = run(seed, cycles)
    return None if cycle < 0 else int(cycle)

"""Bugs planted in the core and in a program: `verify` names the engine, the instruction, the layer and the cycle.

All bugs of the core are in one edited Verilog, and a file chooses among them when a model starts, so that it is
built once (and once more with waveforms).
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from systolith import api
from systolith.compiler.driver import compile_graph
from systolith.hw.build import generate
from systolith.locate import AFTER, BEFORE
from systolith.reference.elementwise import Add
from systolith.reference.graph import QGraph
from systolith.reference.max_pool import MaxPool
from systolith.sim.native import RtlDevice
from systolith.sim.verilator import default_cache_dir
from systolith.spec import numerics
from systolith.spec.arch import PRESETS
from systolith.spec.image import Image
from systolith.spec.isa import isa_for
from tests.graphs import GraphBuilder, random_graph

ARCH = PRESETS["tiny"]

#: Bug to (module, what it edits, what takes its place); BUG is true where the bug is chosen.
BUGS = {
    "product": ("matrix", r"product0_0 <= ([^;]+);", r"product0_0 <= (\1) ^ {BUG && product0_0[13:12] == 2'b01, 9'h0};"),
    "sticky": ("output", r"(lane0_up = lane0_shifted\[0\] &) ([^;]+);", r"\1 (BUG ? lane0_whole[0] : \2);"),
    "add": ("vector", r"total0 <= ([^;]+);", r"total0 <= (\1) ^ {BUG && total0[3:0] == 4'h5, 17'h0};"),
    "pool": (
        "vector",
        r"\$signed\(pool_value0\) > (\$signed\((best\b[^)]*)\));",
        r"BUG ? pool_value0 > \2 : $signed(pool_value0) > \1;",
    ),
    "stride": ("load", r"address = ([^;]+);", r"address = (\1) + (BUG && act__valid && moved != 0);"),
    "weights": ("load", r"weights__beat = ([^;]+);", r"weights__beat = (\1) ^ (BUG && moved == 16);"),
    "strobe": ("store", r"strobe_0 <= ([^;]+);", r"strobe_0 <= (\1) & ~((BUG && !(&(\1))) * 2);"),
    "token": ("sequencer", r"gives_output = ([^;]+);", r"gives_output = BUG ? 0 : \1;"),
    "error": ("matrix", r" now <= ([^;]+);", r" now <= (\1) | {BUG && now[10:6] == 3 && now[0], 4'h0};"),
}


def edited_core() -> dict[str, str]:
    """The core's Verilog with every bug in it, each off unless its number is in `bug.hex` of the current directory."""
    sources = dict(generate(ARCH, build_dir=default_cache_dir().parent / "verilog").sources)
    text = sources["core.v"]
    for number, (module, pattern, replacement) in enumerate(BUGS.values(), 1):
        head = rf"module \\core\.{module} \(.*?^endmodule"
        match = re.search(head, text, re.MULTILINE | re.DOTALL)
        assert match is not None, f"there is no module {module}"
        body, count = re.subn(pattern, replacement.replace("BUG", f"(core.bug[0] == {number})"), match[0])
        assert count == 1, f"{module} holds {pattern} {count} times"
        text = text[: match.start()] + body + text[match.end() :]
    head, tail = re.split(r"(?<=\n)(?=endmodule)", text, maxsplit=1)
    choice = 'reg [7:0] bug [0:0] /* verilator public_flat */;\ninitial $readmemh("bug.hex", bug);\n'
    sources["core.v"] = head + choice + tail
    return sources


def graph_of_all_engines() -> QGraph:
    """Convolution, pooling, table, addition, convolution."""
    builder = GraphBuilder(5)
    x = builder.input((1, 4, 8, 8))
    x = builder.conv(x, channels=6, group=1)
    pooled = builder.append(MaxPool(kernel=(2, 2), strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0), table=None), x)
    other = builder.lookup(pooled)
    first, second, shift = numerics.approximate_pair(0.7, 0.4)
    zeros = {"a_zero": builder.tensors[pooled].zero_point, "b_zero": builder.tensors[other].zero_point, "zero": 3}
    total = builder.append(Add(a_mult=first, b_mult=second, shift=shift, table=None, **zeros), pooled, other)
    return builder.finish(builder.conv(total, channels=5, group=1))

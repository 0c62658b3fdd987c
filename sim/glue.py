"""C++ that fits the harness to a design: the names of its model, and which of its trace ports are logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from systolith.sim.verilator import cpp_name
from systolith.spec.isa import Engine

__all__ = ["Log", "data_bytes", "log_of", "prologue"]

#: Trace ports, and the engine whose instructions they belong to.
_TRACES = {
    "load": Engine.LOAD,
    "weight": Engine.LOAD,
    "param": Engine.LOAD,
    "table": Engine.LOAD,
    "sums": Engine.MATRIX,
    "acc": Engine.OUTPUT,
    "output": Engine.OUTPUT,
    "chain": Engine.OUTPUT,
    "vector": Engine.VECTOR,
}


@dataclass(frozen=True, slots=True)
class Log:
    """What the harness logs of a design.

    Parameters
    ----------
    code         : C++ that adds the events of one cycle
    sources      : name of each source of events, by its number
    done_sources : the sources which say that an instruction is done, and of which engine
    """

    code: str
    sources: tuple[str, ...]
    done_sources: Mapping[int, Engine]


def data_bytes(ports: Mapping[str, int], bus_bytes: int) -> int:
    """Bytes of data in one event, by the widths of the design's ports."""
    widths = [8 * bus_bytes, *(ports.get(f"trace__{name}__data", 0) for name in _TRACES)]
    # Records keep the alignment of their first fields.
    return max(8, -(-max(widths) // 64) * 8)


def prologue(top: str, bus_bytes: int, event_bytes: int) -> str:
    """What stands before the harness: headers, and the names that it uses for the model of a top module."""
    headers = (
        "algorithm",
        "cstdint",
        "cstring",
        "deque",
        "memory",
        "stdexcept",
        "string",
        "unordered_map",
        "vector",
    )
    return "".join(f"#include <{h}>\n" for h in headers) + (
        f'#include "V{top}.h"\n#include "verilated.h"\n'
        '#if VM_TRACE_FST\n#include "verilated_fst_c.h"\nusing Wave = VerilatedFstC;\n'
        '#elif VM_TRACE\n#include "verilated_vcd_c.h"\nusing Wave = VerilatedVcdC;\n#endif\n'
        f"#define MODEL V{top}\n#define AXI(n) top->axi___05F##n\n#define CSR(n) top->csr___05F##n\n"
        f"#define BUS_BYTES {bus_bytes}u\n#define DATA_BYTES {event_bytes}\n#define "
        f"MAX_ENGINES {len(Engine)}\n"
    )


def log_of(ports: Mapping[str, int]) -> Log:
    """The log of a design, by the widths of its ports."""
    names: list[str] = []
    lines: list[str] = []
    done_sources: dict[int, Engine] = {}

    def source(name: str) -> int:
        names.append(name)
        return len(names) - 1

    for name, engine in _TRACES.items():
        port = f"trace__{name}__"
        if f"{port}valid" not in ports:
            continue
        model = f"m.{cpp_name(port)}"
        mask = f"{model}mask" if f"{port}mask" in ports else "~0ull"
        addr = f"{model}addr" if f"{port}addr" in ports else "0"
        lines.append(
            f"if (log.writes && {model}valid) {{ log.add({source(name)}, {int(engine)}, {addr}, {mask}, "
            f"&{model}data, {-(-ports[f'{port}data'] // 8)}); }}"
        )
    for engine in Engine:
        port = f"trace__done__{engine.name.lower()}"
        if port in ports:
            number = source(f"done.{engine.name.lower()}")
            done_sources[number] = engine
            lines.append(
                f"if (m.{cpp_name(port)}) {{ log.add({number}, {int(engine)}, "
                f"0, 0, nullptr, 0); ++log.done[{int(engine)}]; }}"
            )
    store = source("store")
    code = (
        f"const uint32_t STORE_SOURCE = {store}, STORE_ENGINE = {int(Engine.STORE)};\n"
        + "static void log_events(MODEL& m, Log& log) { (void)m; (void)log;\n"
        + "\n".join(lines)
        + "\n}\n"
    )
    return Log(code, tuple(names), done_sources)

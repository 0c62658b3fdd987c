"""The cycles of what happens in a core while it runs small programs."""

from systolith.spec.isa import Engine
from systolith.spec.regs import Status
from tests.hw.core_bench import CoreBench

__all__ = ["event_logs"]

#: Cycles in which every one of these programs ends.
_ENOUGH = 160


def event_logs(arch, programs):
    """Run programs, on a memory that answers in the next cycle; cycles of each event, by program and name."""
    logs = {}

    async def body(bench, ctx):
        signals = (_compact if arch.compact else _full)(bench.core)
        for name, program in programs.items():
            events = logs[name] = {}
            await bench.start(ctx, [*program, "HALT"])
            for cycle in range(_ENOUGH):
                for event, value in zip(
                    signals, (await ctx.tick().sample(*signals.values()))[2:], strict=True
                ):
                    if value:
                        events.setdefault(event, []).append(cycle)
            assert (await bench.wait(ctx))[0] == Status.DONE, name

    CoreBench(arch, body, latency=1)
    return logs


def _moved(stream):
    return stream.valid & stream.ready


def _bus(axi):
    return {
        "AR": axi.arvalid & axi.arready,
        "R": axi.rvalid & axi.rready,
        "AW": axi.awvalid & axi.awready,
        "W": axi.wvalid & axi.wready,
        "B": axi.bvalid & axi.bready,
    }


def _full(core):
    engines = {}
    for engine in Engine:
        name = engine.name.lower()
        port = getattr(core._sequencer, name)
        engines |= {
            f"{name} queued": _moved(getattr(core._sequencer, f"dispatch_{name}")),
            f"{name} issued": _moved(port.cmd),
            f"{name} done": port.done,
        }
    return (
        engines
        | _bus(core.axi)
        | {
            "fetch burst": _moved(core._fetch.bus.bursts),
            "fetched": _moved(core._fetch.o),
            "matrix vector": core._matrix.act.valid,
            "matrix sums": core._matrix.sums.valid,
            "output entry": _moved(core._output.acc),
            "output write": _moved(core._output.act),
            "output chunk": _moved(core._output.chain),
            "vector chunk": _moved(core._vector.chain),
            "vector read": _moved(core._vector.read),
            "vector write": _moved(core._vector.write),
            "load burst": _moved(core._load.bus.bursts),
            "load beat": _moved(core._load.bus.beats),
            "load write": _moved(core._load.act),
            "store burst": _moved(core._store.bus.bursts),
            "store read": _moved(core._store.read),
            "store beat": _moved(core._store.bus.beats),
        }
    )


def _compact(core):
    units = {}
    for name in ("transfer", "matrix", "output"):
        unit = getattr(core._dispatch, name)
        units |= {f"{name} beat": unit.load, f"{name} begins": unit.begin, f"{name} done": unit.done}
    return (
        units
        | _bus(core.axi)
        | {
            "matrix vector": _moved(core._matrix.act),
            "matrix sums": core._matrix.sums.valid,
            "output entry": core._output.acc.valid,
            "output sums": core._output.read.valid,
            "output result": core._output.result.valid,
            "transfer burst": core._transfer.reads.bursts.valid | core._transfer.writes.bursts.valid,
        }
    )

"""The verb `verify`, on option objects: every backend beside the reference."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from systolith.arrays import Arrays, Inputs, check_inputs, input_specs, load_arrays, named, random_inputs
from systolith.compiling import compile_plan
from systolith.evidence.difference import Difference, compare_cycles, compare_steps, located
from systolith.host.device import DeviceError
from systolith.host.serial import LinkDown
from systolith.importing import Model, Progress, imported, tell
from systolith.options import Importing, Running
from systolith.reference.plan import Plan
from systolith.results import BackendResult, RunResult, VerifyResult
from systolith.running import check_backends
from systolith.session import BACKENDS, Session, core_sources, run_reference
from systolith.spec.arch import ArchConfig, load_arch
from systolith.spec.image import Image
from systolith.spec.outputs import check_outputs

__all__ = ["SIMULATED", "verify_model"]

#: Backends whose clock is simulated: their Verilog can be given, and what they do can be watched.
SIMULATED = ("rtl", "netlist")


def verify_model(
    model: Model,
    arch: str | Path | ArchConfig,
    inputs: Inputs,
    importing: Importing,
    running: Running,
    *,
    on: str | Sequence[str],
    seed: int = 0,
    locate: bool = True,
    waveform: str | Path | None = None,
    progress: Progress = None,
) -> VerifyResult:
    """See `api.verify`."""
    on = (on,) if isinstance(on, str) else tuple(on)
    check_backends(on)
    if waveform is not None and set(on) & set(SIMULATED):
        _check_waveform(waveform)
    config = load_arch(arch)
    given = inputs if isinstance(inputs, np.ndarray) else load_arrays(inputs, "inputs")
    found_model = imported(model, importing, progress, config)
    plan = found_model.plan
    arrays = named(given, [*input_specs(plan)])
    drawn = arrays is None
    if arrays is None:
        arrays = random_inputs(plan, seed)
    check_inputs(arrays, input_specs(plan), plan.formats)
    begin = time.perf_counter()
    image = compile_plan(plan, config, memory=running.memory, progress=progress)
    compile_seconds = time.perf_counter() - begin
    tell(progress, "running on reference")
    expected = run_reference(plan, arrays)
    backends = {"reference": BackendResult(seconds=expected.seconds)}
    host_seconds = dict(expected.host_seconds)
    differences: list[Difference] = []
    tools: dict[str, dict[str, str]] = {}
    for name in [name for name in BACKENDS[1:] if name in on]:
        found, result = _compared(name, image, arrays, expected, running, progress)
        backends[name] = BackendResult(seconds=0.0)
        if result is not None:
            backends[name] = BackendResult(
                seconds=result.seconds,
                cycles=result.cycles,
                load_cycles=result.load_cycles,
                step_cycles=tuple(step.cycles for step in result.steps),
                layer_cycles=result.layer_cycles,
            )
            tools |= result.tools
            for step, seconds in result.host_seconds.items():
                host_seconds[step] = min(seconds, host_seconds[step])
        if found and locate:
            tell(progress, f"{name} differs: searching the first instruction")
            found[0] = _located(found[0], plan, image, expected.written, running, waveform, progress)
        differences += found
    if not differences and backends.keys() >= set(SIMULATED):
        cycles = ((backends[name].load_cycles, backends[name].cycles) for name in SIMULATED)
        differences += compare_cycles(*cycles)
    return VerifyResult(
        fidelity=found_model.fidelity,
        notes=found_model.notes,
        model=plan.name,
        image=image,
        seed=seed if drawn else None,
        backends=backends,
        differences=tuple(differences),
        host_seconds=host_seconds,
        compile_seconds=compile_seconds,
        tools=tools,
    )


def _compared(
    name: str, image: Image, arrays: Arrays, expected: RunResult, running: Running, progress: Progress
) -> tuple[list[Difference], RunResult | None]:
    """What differs on one backend, and its result, or None where it stopped."""
    tell(progress, f"preparing {name}")
    if name not in SIMULATED:
        running = replace(running, sources=None)
    try:
        with Session(name, image, running) as session:
            tell(progress, f"running on {name}")
            result = session.run(arrays, everything=True)
    except LinkDown:
        # Nothing is known of the board, so it cannot be called wrong.
        raise
    except DeviceError as error:
        return [Difference(backend=name, error=str(error))], None
    return compare_steps(name, image.steps, expected, result), result


def _located(
    difference: Difference,
    plan: Plan,
    image: Image,
    entered: Arrays,
    running: Running,
    waveform: str | Path | None,
    progress: Progress,
) -> Difference:
    """The difference with the place where it began."""
    from systolith.evidence.locate import Tracing

    tracing = None
    if difference.backend in SIMULATED:
        core = core_sources(difference.backend, image.arch, running.sources)
        tracing = Tracing(
            sources=core,
            memory=running.memory,
            waveform=waveform,
            progress=progress,
            max_cycles=running.max_cycles,
        )
    return located(difference, plan, image, entered, tracing)


def _check_waveform(path: str | Path) -> None:
    from systolith.sim.native import Waveform

    Waveform(path)
    check_outputs({"the waveform": path})

"""Inferences: on a device, and on the reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import numpy as np

from systolith.arrays import ApiError, Arrays, check_inputs, input_specs
from systolith.device_port import open_device
from systolith.evidence.profile import instruction_ends, layer_cycles
from systolith.host.budget import BOARD_MEMORY
from systolith.host.device import Device, DeviceReset
from systolith.host.driver import Driver, memory_needed
from systolith.host.inputs import port_specs
from systolith.host.runner import PlanRun, Runner
from systolith.options import Running
from systolith.reference.graph import QGraph
from systolith.reference.plan import Plan, ReferenceCores
from systolith.results import RunResult, StepRun
from systolith.spec.arch import ArchConfig
from systolith.spec.image import Image
from systolith.spec.memory import SIMULATED_MEMORY_BYTES
from systolith.spec.plan import HostStep
from systolith.tooling.tools import recorded

__all__ = ["BACKENDS", "DEFAULT_BACKENDS", "Session", "Stream", "core_sources", "run_reference"]

Result = TypeVar("Result")

#: Where a program can run, in the order of the ladder.
BACKENDS = ("reference", "machine", "rtl", "netlist", "board")
#: Those that are compared where nothing else is said: a netlist takes minutes, and a board has to be there.
DEFAULT_BACKENDS = BACKENDS[:3]
#: How often a board may be reset while something is done on it.
_RESETS = 3


def run_reference(model: Plan | QGraph, arrays: Arrays) -> RunResult:
    """One inference of a model, the quantised graphs of its core steps in NumPy."""
    plan = Plan.of(model)
    check_inputs(arrays, input_specs(plan), plan.formats)
    run = Runner(plan).run(arrays, ReferenceCores(plan), everything=True)
    steps = tuple(StepRun(step=step, seconds=t) for step, t in zip(plan.steps, run.seconds, strict=True))
    return _result(run, steps, load_cycles=0)


def _result(
    run: PlanRun,
    steps: tuple[StepRun, ...],
    load_cycles: int,
    layer_cycles: tuple[int, ...] | None = None,
    tools: Mapping[str, dict[str, str]] | None = None,
) -> RunResult:
    return RunResult(
        outputs=run.outputs,
        raw=run.raw,
        values=run.values,
        written=run.written,
        steps=steps,
        load_cycles=load_cycles,
        layer_cycles=layer_cycles,
        tools=dict(tools or {}),
    )


class Session:
    """A device with an image loaded, for any number of inferences; closed at the end of a `with` block.

    Parameters
    ----------
    backend : 'machine'; 'rtl' or 'netlist', which are built first where their model is not cached; or 'board'
    image   : what runs on it
    running : where and how it runs

    Members
    -------
    load_cycles : cycles of the load stream, which runs once, here; after a reset of the board once more
    ends        : for each core step, per instruction of its run stream, the cycle since START in which the
                  last run had done it (None: it has no engine); None without a clock, or without trace ports

    Raises
    ------
    ApiError       If there is no such device.
    HostStepError   If ONNX Runtime does not accept a step of the host.
    The device's own errors, where the load stream stops.
    """

    def __init__(
        self,
        backend: str,
        image: Image,
        running: Running | None = None,
    ) -> None:
        running = running if running is not None else Running()
        self.image, self._backend = image, backend
        self.ends: list[list[int | None]] | None = None
        self._runner = Runner(image)
        with recorded() as self._tools:
            self._device = _make_device(backend, image, running)
        self._driver: Driver | None = None
        self._max_cycles = running.max_cycles
        self._memory = BOARD_MEMORY if backend == "board" else running.memory
        try:
            self._recovering(lambda driver: None)
        except BaseException:
            self.close()
            raise

    def _recovering(self, action: Callable[[Driver], Result]) -> Result:
        """What an action on the driver gives; where the board was reset meanwhile, all is loaded and begun
        again.

        Raises
        ------
        DeviceReset   If it is reset again and again, or has lost the state of a stream.
        """
        resets = 0
        while True:
            fresh = self._driver is None
            try:
                if self._driver is None:
                    self._driver = Driver(
                        self._device, self.image, max_cycles=self._max_cycles, memory=self._memory
                    )
                    self.load_cycles = self._driver.load_cycles
                return action(self._driver)
            except DeviceReset as error:
                self._driver = None
                self._device.open()
                if self.image.states and not fresh:
                    raise DeviceReset(
                        "the board was reset, and has lost the state of the stream: the next run is the "
                        "first of a stream"
                    ) from error
                resets += 1
                if resets > _RESETS:
                    raise

    def __repr__(self) -> str:
        return f"<Session on {self._backend}: {self.image!r}>"

    def _repr_html_(self) -> str:
        return f"<p>Session on {self._backend}</p>{self.image._repr_html_()}"

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the device."""
        self._device.close()

    @property
    def state(self) -> bytes:
        """What the last run left for the next one, where the image was compiled for streaming; assign it to
        continue another stream."""
        return self._recovering(lambda driver: driver.state)

    @state.setter
    def state(self, value: bytes) -> None:
        self._recovering(lambda driver: setattr(driver, "state", value))

    def reset(self) -> None:
        """The next run is the first of a stream."""
        self._recovering(lambda driver: driver.reset_state())

    def stream(self) -> Stream:
        """A stream of its own on this device: any number of them take turns without mixing their states."""
        return Stream(self)

    def run(self, arrays: Arrays, *, everything: bool = False) -> RunResult:
        """One inference, step by step.

        An image that was compiled for streaming continues from the state that the run before left. With
        `everything`, all that core steps give is read, also what only core steps need.
        """
        check_inputs(arrays, port_specs(self.image.inputs), self.image.formats)
        return self._recovering(lambda driver: self._inference(driver, arrays, everything))

    def _inference(self, driver: Driver, arrays: Arrays, everything: bool) -> RunResult:
        cores: list[tuple[float, int]] = []
        ends: list[list[int | None] | None] = []

        def core(number: int, given: Arrays, read: Collection[str]) -> dict[str, np.ndarray]:
            self._device.watch()
            begin = time.perf_counter()
            results = driver.run_int8(given, number, read)
            cores.append((time.perf_counter() - begin, driver.cycles))
            dones = self._device.dones()
            ends.append(None if dones is None else instruction_ends(self.image, dones, number))
            return results

        run = self._runner.run(arrays, core, everything=everything)
        counted = iter(cores)
        steps = []
        for step, seconds in zip(self.image.steps, run.seconds, strict=True):
            if isinstance(step, HostStep):
                steps.append(StepRun(step=step, seconds=seconds))
            else:
                # Without what it takes to read when instructions were done.
                seconds, cycles = next(counted)
                steps.append(StepRun(step=step, seconds=seconds, cycles=cycles))
        known = [found for found in ends if found is not None]
        self.ends = known if known and len(known) == len(ends) else None
        cycles_of_layers = None
        if self.ends is not None:
            cycles_of_layers = tuple(
                cycles
                for step, found in zip(self.image.cores, self.ends, strict=True)
                for cycles in layer_cycles(step, found)
            )
        return _result(run, tuple(steps), self.load_cycles, cycles_of_layers, self._tools)


class Stream:
    """One of several streams on a session's device; made by `Session.stream`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._state = b""
        self.reset()

    def run(self, arrays: Arrays) -> RunResult:
        """The next inference of this stream."""
        session, others = self._session, self._session.state
        session.state = self._state
        try:
            result = session.run(arrays)
            self._state = session.state
        finally:
            session.state = others
        return result

    def reset(self) -> None:
        """The next run is the first."""
        others = self._session.state
        self._session.reset()
        self._state, self._session.state = self._session.state, others


def _make_device(backend: str, image: Image, running: Running) -> Device:
    if backend == "machine":
        from systolith.reference.machine_device import MachineDevice

        # The driver refuses an image that needs more.
        return MachineDevice(image.arch, memory_bytes=min(memory_needed(image), SIMULATED_MEMORY_BYTES))
    if backend in ("rtl", "netlist"):
        from systolith.sim.native import RtlDevice

        return RtlDevice(
            image.arch,
            latency=running.memory.latency,
            bytes_per_cycle=running.memory.bytes_per_cycle,
            sources=core_sources(backend, image.arch, running.sources),
        )
    if backend == "board":
        return open_device(running.port, image.arch)
    raise ApiError(f"{backend!r} is no device; choose from {', '.join(BACKENDS[1:])}")


def core_sources(backend: str, arch: ArchConfig, sources: Mapping[str, str] | None) -> dict[str, str] | None:
    """What `RtlDevice` runs as a backend: `sources`, None for the generated core, or what synthesis makes of
    either."""
    sources = dict(sources) if sources is not None else None
    if backend != "netlist":
        return sources
    from systolith.sim.netlist import core_netlist

    return core_netlist(arch, sources)

"""Inferences: on a device, and on the reference."""

from __future__ import annotations

import time

import numpy as np

from systolith.arrays import ApiError, Arrays, as_partition, check_inputs, input_specs
from systolith.host.device import Device
from systolith.host.driver import Driver, cycle_limit, dequantise, quantise
from systolith.host.segments import HostSegments
from systolith.reference.graph import QGraph
from systolith.reference.partition import Partition
from systolith.results import RunResult
from systolith.spec.image import Image

__all__ = ["BACKENDS", "Session", "run_reference"]

#: Where a program can run, in the order of the ladder.
BACKENDS = ("reference", "machine", "rtl")


def run_reference(model: Partition | QGraph, arrays: Arrays) -> RunResult:
    """One inference of a model, its quantised graph in NumPy."""
    partition = as_partition(model)
    check_inputs(arrays, input_specs(partition))
    graph, segments = partition.graph, HostSegments(partition.host)
    entered = segments.enter(arrays)
    begin = time.perf_counter()
    values = graph.run(
        {name: quantise(np.asarray(entered[name]), graph.tensors[name]) for name in graph.inputs}
    )
    seconds = time.perf_counter() - begin
    raw = {name: values[name] for name in graph.outputs}
    results = {name: dequantise(raw[name], graph.tensors[name]) for name in raw}
    return RunResult(
        outputs=segments.leave(entered, results),
        raw=raw,
        cycles=0,
        load_cycles=0,
        seconds=seconds,
        host=partition.host,
        host_seconds=dict(segments.seconds),
    )


class Session:
    """A device with an image loaded, for any number of inferences; closed at the end of a `with` block.

    Parameters
    ----------
    backend : 'machine', or 'rtl', which is built first where its model is not cached
    image   : what runs on it
    sources : Verilog to run instead of the generated core, file name to text; only on 'rtl'

    Members
    -------
    load_cycles : cycles of the load stream, which runs once, here

    Raises
    ------
    ApiError       If there is no such device.
    SegmentError   If ONNX Runtime does not accept what runs before or after the core.
    The device's own errors, where the load stream stops.
    """

    def __init__(self, backend: str, image: Image, sources: dict[str, str] | None = None) -> None:
        self.image = image
        self._segments = HostSegments(image.host)
        self._device = _make_device(backend, image, sources)
        try:
            # The core that comes with this package stops by its watchdog; another one may not.
            limit = cycle_limit(image) if sources is not None else None
            self._driver = Driver(self._device, image, timeout_cycles=limit)
            self.load_cycles = self._driver.load_cycles
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the device."""
        close = getattr(self._device, "close", None)
        if close is not None:
            close()

    def run(self, arrays: Arrays) -> RunResult:
        """One inference: inputs, nodes before the core, run stream, nodes after it, outputs."""
        if self.image.host is not None:
            check_inputs(arrays, {port.name: (port.shape, port.dtype) for port in self.image.host.inputs})
        entered = self._segments.enter(arrays)
        if self.image.host is not None:
            arrays = {io.name: entered[io.name] for io in self.image.inputs}
        self._driver.check(arrays)
        quantised = {io.name: quantise(np.asarray(arrays[io.name]), io) for io in self.image.inputs}
        begin = time.perf_counter()
        raw = self._driver.run_int8(quantised)
        seconds = time.perf_counter() - begin
        results = {io.name: dequantise(raw[io.name], io) for io in self.image.outputs}
        return RunResult(
            outputs=self._segments.leave(entered, results),
            raw=raw,
            cycles=self._driver.cycles,
            load_cycles=self.load_cycles,
            seconds=seconds,
            host=self.image.host,
            host_seconds=dict(self._segments.seconds),
        )


def _make_device(backend: str, image: Image, sources: dict[str, str] | None = None) -> Device:
    if backend == "machine":
        from systolith.reference.machine_device import MachineDevice

        # Program and data, each from a page of its own.
        return MachineDevice(image.arch, memory_bytes=len(image.program) + image.data_bytes + 4 * 4096)
    if backend == "rtl":
        from systolith.sim.native import RtlDevice

        return RtlDevice(image.arch, sources=sources)
    raise ApiError(f"{backend!r} is no device; choose from {', '.join(BACKENDS[1:])}")

"""How far the quantised model is from the float model: signal to noise on the calibration data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from systolith.arrays import Arrays
from systolith.host.driver import dequantise, quantise
from systolith.host.segments import HostSegments
from systolith.reference.partition import Partition
from systolith.reference.recurrent import Recurrent

__all__ = ["SAMPLES", "decibels", "signal_to_noise"]

#: Samples that are compared, spread over the calibration data.
SAMPLES = 8


def decibels(signal: float, noise: float) -> float | None:
    """None where there is no noise at all."""
    return None if noise == 0 else float(10 * np.log10(max(signal, 1e-300) / noise))


def signal_to_noise(model: str | Path, partition: Partition, calibration: Arrays) -> dict[str, dict[str, float | None]]:
    """Decibels of each float output of the model (``outputs``) and of each recurrent layer on the core (``recurrent``), by name.

    Signal is what ONNX Runtime gives for the float model, noise what the reference differs from it, both as energy over `SAMPLES` samples.

    Raises
    ------
    CompileError   If the calibration data does not fit the model.
    """
    import onnx

    from systolith.compiler.importer import load_model
    from systolith.compiler.quantise import calibration_samples, segment_samples

    loaded, graph, segments = load_model(model), partition.graph, HostSegments(partition.host)
    on_core = {source for node in graph.nodes if isinstance(node.op, Recurrent) for source in node.sources}
    layers = {name: node.name for node in loaded.graph.node if node.name in on_core for name in node.output if name in graph.tensors}
    outputs = [value.name for value in loaded.graph.output]
    loaded.graph.output.extend(onnx.ValueInfoProto(name=name) for name in layers if name not in outputs)
    samples = calibration_samples(loaded, dict(calibration))
    chosen = [samples[index] for index in np.unique(np.linspace(0, len(samples) - 1, SAMPLES).astype(int))]
    energy = {name: np.zeros(2) for name in (*outputs, *layers)}
    for sample in segment_samples(loaded, [*chosen[0]], [*energy], chosen):
        entered = segments.enter({name: sample[name] for name in chosen[0]})
        values = graph.run({name: quantise(np.asarray(entered[name]), graph.tensors[name]) for name in graph.inputs})
        got = {name: (values[name].astype(np.float64) - graph.tensors[name].zero_point) * graph.tensors[name].scale for name in layers}
        got |= segments.leave(entered, {name: dequantise(values[name], graph.tensors[name]) for name in graph.outputs})
        for name, sums in energy.items():
            if sample[name].dtype.kind == "f":
                expected = sample[name].astype(np.float64)
                sums += np.square(expected).sum(), np.square(expected - got[name]).sum()
    found = {name: decibels(*sums) for name, sums in energy.items() if sums[0]}
    recurrent: dict[str, float | None] = {}
    for name, node in layers.items():
        recurrent.setdefault(node, found.get(name))
    return {"outputs": {name: found[name] for name in outputs if name in found}, "recurrent": recurrent}

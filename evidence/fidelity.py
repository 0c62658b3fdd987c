"""How far the quantised model is from the float model: signal to noise on the calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from systolith.host.runner import Runner
from systolith.reference.graph import QTensor
from systolith.reference.plan import Plan, ReferenceCores

__all__ = [
    "SAMPLES",
    "STREAM",
    "WORTH",
    "chosen_hidden",
    "decibels",
    "gain",
    "has_recurrent_layers",
    "signal_to_noise",
]

#: Samples that are compared, spread over the calibration data.
SAMPLES = 8
#: Decibels for which hidden states get 16 bits.
WORTH = 1.0
#: Samples of a stream that are compared.
STREAM = 64


def decibels(signal: float, noise: float) -> float | None:
    """None where there is no noise at all."""
    ratio = max(float(signal), 1e-300) / min(float(noise), 1e300) if noise else None
    return None if ratio is None else float(10 * np.log10(ratio))


def signal_to_noise(
    model: str | Path,
    plan: Plan,
    calibration: Mapping[str, np.ndarray],
    states: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Decibels of each float output of the model (``outputs``) and of each recurrent layer on the core
    (``recurrent``), by name.

    Signal is what ONNX Runtime gives for the float model, noise what the reference differs from it, both as
    energy over `SAMPLES` samples; where `states` are bound, over the first samples of the stream, from which
    each side carries its own state. Sequences of tensors, which the host gives, do not count.

    Raises
    ------
    CompileError   If the calibration data does not fit the model.
    """
    from systolith.compiler.base.runtime import session
    from systolith.compiler.partition import prepare

    prepared = prepare(model, calibration, states=states)
    whole, runner, cores = prepared.whole, Runner(plan), ReferenceCores(plan)
    bound = prepared.bound
    samples = list(prepared.samples)
    if bound is not None:
        chosen = samples[:STREAM]
    else:
        chosen = [samples[index] for index in np.unique(np.linspace(0, len(samples) - 1, SAMPLES).astype(int))]
    given = [name for name in whole.inputs if bound is None or name not in bound.nodes]
    nodes = [node for part in plan.cores for node in part.graph.nodes]
    tensors = {name: tensor for part in plan.cores for name, tensor in part.graph.tensors.items()}
    on_core = {source for node in nodes if node.op.stateful for source in node.sources}
    layers = {
        name: node.name
        for node in whole.nodes
        if node.name in on_core
        for name in node.outputs
        if name in tensors
    }
    outputs = [name for name in whole.outputs if name not in (states or ())]
    energy = {name: np.zeros(2) for name in (*outputs, *layers)}
    shown = session(whole.part(whole.nodes, whole.inputs, [*energy]).to_proto())
    fed = [value.name for value in shown.get_inputs()]
    for sample in chosen:
        if not states:
            cores.states.clear()
        expectations = dict(zip(energy, shown.run(None, {name: sample[name] for name in fed}), strict=True))
        result = runner.run({name: sample[name] for name in given}, cores)
        values = {name: q for found in cores.tensors for name, q in found.items()}
        got = {name: _real(values[name], tensors[name]) for name in layers} | result.outputs
        for name, sums in energy.items():
            if isinstance(expectations[name], list):
                continue
            expected = np.asarray(expectations[name])
            expected = expected.astype(np.float64) if expected.dtype.kind == "f" else np.array(np.nan)
            # Where the float model gives infinity or NaN, nothing says how far the integers are from it.
            if np.isfinite(expected).all():
                sums += np.square(expected).sum(), np.square(expected - got[name]).sum()
    found = {name: decibels(*sums) for name, sums in energy.items() if sums[0]}
    recurrent: dict[str, float | None] = {}
    for name, node in layers.items():
        recurrent.setdefault(node, found.get(name))
    return {"outputs": {name: found[name] for name in outputs if name in found}, "recurrent": recurrent}


def _real(q: np.ndarray, tensor: QTensor) -> np.ndarray:
    real: np.ndarray = (q.astype(np.float64) - tensor.zero_point) * tensor.scale
    return real


def gain(before: dict[str, dict[str, float | None]], after: dict[str, dict[str, float | None]]) -> float:
    """By how many decibels the worst output, or recurrent layer, is better."""

    def worst(found: dict[str, dict[str, float | None]]) -> float:
        values = found["outputs"] or found["recurrent"]
        return min((np.inf if value is None else value for value in values.values()), default=np.inf)

    first, second = worst(before), worst(after)
    return 0.0 if first == second else second - first


def has_recurrent_layers(plan: Plan) -> bool:
    """Whether a recurrent layer runs on the core."""
    return any(node.op.stateful for part in plan.cores for node in part.graph.nodes)


def chosen_hidden(
    model: str | Path,
    calibration: dict[str, np.ndarray],
    states: Mapping[str, str] | None,
    percentile: float,
    tell: Callable[[str], None],
) -> Plan:
    """The model with hidden states of 8 bits, or of 16 where they bring it `WORTH` nearer to float.

    Raises
    ------
    CompileError   If the model is refused.
    """
    from systolith.compiler.base.errors import QuantiseError
    from systolith.compiler.loading import load
    from systolith.compiler.partition import partition_model

    narrow = partition_model(model, calibration, states, 8, percentile)
    if not has_recurrent_layers(narrow):
        return narrow
    if load(model, samples=calibration).quantised:
        raise QuantiseError(
            "quantise",
            "",
            "the bits of hidden states cannot be chosen without the float model",
            "give --hidden 8 or 16",
        )
    try:
        wide = partition_model(model, calibration, states, 16, percentile)
    except QuantiseError as error:
        tell(f"hidden states have 8 bits: with 16, {error.reason}")
        return narrow
    found = gain(*(signal_to_noise(model, plan, calibration, states) for plan in (narrow, wide)))
    bits = 16 if found >= WORTH else 8
    tell(
        f"hidden states have {bits} bits: with 16 the worst output is {found:.1f} dB nearer to float, and "
        f"{WORTH:g} dB are worth their cost"
    )
    return wide if bits == 16 else narrow

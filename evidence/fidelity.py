"""How far the quantised model is from the float model: signal to noise on the calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from systolith.compiler.base.model import Model
from systolith.compiler.base.runtime import session
from systolith.compiler.partition import Prepared
from systolith.host.runner import Runner
from systolith.reference.graph import QTensor
from systolith.reference.plan import Plan, ReferenceCores
from systolith.spec.arch import ArchConfig
from systolith.spec.ranges import FAR

__all__ = [
    "SAMPLES",
    "STREAM",
    "WORTH",
    "Fidelity",
    "chosen_hidden",
    "compare",
    "decibels",
    "has_recurrent_layers",
]

#: Samples that are compared, spread over the calibration data.
SAMPLES = 8
#: Decibels for which hidden states get 16 bits.
WORTH = 1.0
#: Samples of a stream that are compared.
STREAM = 64


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Decibels from the float model; None: equal to it.

    Parameters
    ----------
    outputs   : of each float output of the model, by name
    recurrent : of each recurrent layer on the core, by the name of its node
    layers    : of each tensor that the core computes and the model has, in execution order
    losses    : how much each of `layers` is below the best of what its node reads, in dB
    """

    outputs: Mapping[str, float | None] = field(default_factory=dict)
    recurrent: Mapping[str, float | None] = field(default_factory=dict)
    layers: Mapping[str, float | None] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)

    @property
    def lowest(self) -> float:
        """The output that is furthest from float, or where there is none the recurrent layer; infinity where
        all are equal to it."""
        values = self.outputs or self.recurrent
        return min((np.inf if value is None else value for value in values.values()), default=np.inf)

    @property
    def worst(self) -> str | None:
        """The layer that loses most."""
        return max(self.losses, key=lambda name: self.losses[name], default=None)

    @property
    def far(self) -> dict[str, float]:
        """Outputs that count as far from float."""
        return {name: value for name, value in self.outputs.items() if value is not None and value < FAR}

    def summary(self) -> str:
        """One line: how far, and where most of it arises."""
        if not self.outputs:
            return "no output of the model is in float: nothing says how far it is from float"
        if np.isinf(self.lowest):
            return "the outputs are equal to float on the samples"
        name = min(self.outputs, key=lambda name: _finite(self.outputs[name]))
        text = f"output {name!r} is {self.lowest:.1f} dB from float on the samples"
        if len(self.outputs) > 1:
            text = f"outputs are {self.lowest:.1f} dB from float or better on the samples, {name!r} least"
        worst = self.worst
        if worst is not None and self.losses[worst] >= 0.1:
            text += f"; {worst!r} loses most, {self.losses[worst]:.1f} dB"
        return text

    def account(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "lowest_db": None if np.isinf(self.lowest) else round(self.lowest, 3),
            "loses_most": self.worst,
            "layers": {name: _rounded(value) for name, value in self.layers.items()},
            "losses": {name: round(value, 3) for name, value in self.losses.items()},
        }

    def snr(self) -> dict[str, dict[str, float | None]]:
        """The decibels of outputs and recurrent layers, as reports show them."""
        return {"outputs": dict(self.outputs), "recurrent": dict(self.recurrent)}


def _finite(value: float | None) -> float:
    return np.inf if value is None else value


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def decibels(signal: float, noise: float) -> float | None:
    """None where there is no noise at all."""
    ratio = max(float(signal), 1e-300) / min(float(noise), 1e300) if noise else None
    return None if ratio is None else float(10 * np.log10(ratio))


def compare(prepared: Prepared, plan: Plan) -> Fidelity | None:
    """A plan beside the float model that it was made of; None for a model that was quantised in its file.

    Signal is what ONNX Runtime gives for the float model, noise what the plan differs from it (the reference
    for core steps, ONNX Runtime for those of the host), both as energy over `SAMPLES` samples; where states
    are bound, over the first `STREAM` samples of the stream, from which each side carries its own state.
    Where the float model gives infinity or NaN, and in sequences of tensors, nothing counts.
    """
    if not prepared.in_float or not prepared.samples:
        return None
    model, bound, samples = prepared.model, prepared.bound, prepared.samples
    if bound is not None:
        chosen = list(samples[:STREAM])
    else:
        indices = np.unique(np.linspace(0, len(samples) - 1, SAMPLES).astype(int))
        chosen = [samples[index] for index in indices]
    tensors = {
        name: tensor
        for part in plan.cores
        for name, tensor in part.graph.tensors.items()
        if tensor.data is None and name not in part.graph.inputs
    }
    whole = prepared.whole
    outputs = [name for name in model.outputs if whole.type_of(name).element]
    layers = [
        name for node in whole.nodes for name in node.outputs if name in tensors and name not in outputs
    ]
    energy = {name: np.zeros(2) for name in (*outputs, *layers)}
    shown = session(whole.part(whole.nodes, whole.inputs, [*energy]).to_proto())
    fed = [value.name for value in shown.get_inputs()]
    runner, cores = Runner(plan), ReferenceCores(plan)
    for sample in chosen:
        if bound is None:
            cores.states.clear()
        in_float = dict(zip(energy, shown.run(None, {name: sample[name] for name in fed}), strict=True))
        result = runner.run({port.name: sample[port.name] for port in plan.inputs}, cores)
        values = {name: q for found in cores.tensors for name, q in found.items()}
        for name, sums in energy.items():
            expected = in_float[name]
            if isinstance(expected, list) or expected.dtype.kind != "f":
                continue
            got = result.outputs[name] if name in result.outputs else _real(values[name], tensors[name])
            wanted = expected.astype(np.float64)
            if np.isfinite(wanted).all() and np.shape(got) == wanted.shape:
                sums += np.square(wanted).sum(), np.square(wanted - got).sum()
    found = {name: decibels(*sums) for name, sums in energy.items() if sums[0]}
    on_core = {name: found[name] for name in (*layers, *outputs) if name in found and name in tensors}
    return Fidelity(
        outputs={name: found[name] for name in outputs if name in found},
        recurrent=_recurrent(plan, whole, on_core, prepared),
        layers=on_core,
        losses=_losses(whole, on_core),
    )


def _recurrent(
    plan: Plan, model: Model, found: Mapping[str, float | None], prepared: Prepared
) -> dict[str, float | None]:
    names = {
        source
        for part in plan.cores
        for node in part.graph.nodes
        if node.op.stateful
        for source in node.sources
    }
    layers: dict[str, float | None] = {}
    for node in model.nodes:
        if prepared.origin(node.name) in names:
            for name in node.outputs:
                if name in found:
                    layers.setdefault(node.name, found[name])
    return layers


def _losses(model: Model, found: Mapping[str, float | None]) -> dict[str, float]:
    """How far each tensor is below the best that its node reads, followed through tensors that the core has
    no name for."""
    best: dict[str, float] = {}
    losses: dict[str, float] = {}
    for node in model.nodes:
        given = max((best[name] for name in node.reads if name in best), default=None)
        for name in node.outputs:
            value = found.get(name, 0.0)
            if name in found:
                best[name] = np.inf if value is None else value
                if given is not None and np.isfinite(best[name]) and np.isfinite(given):
                    losses[name] = max(0.0, given - best[name])
            elif given is not None:
                best[name] = given
    return losses


def _real(q: np.ndarray, tensor: QTensor) -> np.ndarray:
    real: np.ndarray = (q.astype(np.float64) - tensor.zero_point) * tensor.scale
    return real


def has_recurrent_layers(plan: Plan) -> bool:
    """Whether a recurrent layer runs on the core."""
    return any(node.op.stateful for part in plan.cores for node in part.graph.nodes)


def chosen_hidden(prepared: Prepared, arch: ArchConfig | None, tell: Callable[[str], None]) -> int:
    """8 bits of hidden states, or 16 where they bring the model `WORTH` nearer to float.

    Raises
    ------
    CompileError   If the model is refused, or is quantised, so that there is nothing to compare with.
    """
    from systolith.compiler.base.errors import QuantiseError

    narrow = prepared.plan(arch, 8)
    if not has_recurrent_layers(narrow):
        return 8
    if not prepared.in_float:
        raise QuantiseError(
            "quantise",
            "",
            "the bits of hidden states cannot be chosen without the float model",
            "give --hidden 8 or 16",
        )
    wide = prepared.plan(arch, 16)
    if not has_recurrent_layers(wide):
        reasons = {node.reason for node in wide.host_nodes} - {node.reason for node in narrow.host_nodes}
        tell(f"hidden states have 8 bits: with 16, {'; '.join(sorted(reasons))}")
        return 8
    first, second = compare(prepared, narrow), compare(prepared, wide)
    assert first is not None and second is not None
    found = 0.0 if first.lowest == second.lowest else second.lowest - first.lowest
    bits = 16 if found >= WORTH else 8
    tell(
        f"hidden states have {bits} bits: with 16 the worst output is {found:.1f} dB nearer to float, and "
        f"{WORTH:g} dB are worth their cost"
    )
    return bits

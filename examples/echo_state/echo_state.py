"""An echo state network in NumPy: a leaky tanh reservoir with sparse random weights, and a readout fitted by
ridge regression.

``python examples/echo_state/echo_state.py DIR`` fits it to the Mackey-Glass series, prints its error, and
writes `DIR/echo_state.onnx` and `DIR/calib.npz`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: How many steps ahead the readout predicts, and how many steps the reservoir needs to forget its initial
#: state.
AHEAD, WASHOUT = 6, 100


def mackey_glass(steps: int, rng: np.random.Generator, delay: int = 17, substeps: int = 10) -> np.ndarray:
    """The series ``dx/dt = 0.2 x(t - delay) / (1 + x(t - delay)**10) - 0.1 x``, one value per unit of time,
    about its mean."""
    history = list(rng.uniform(0.9, 1.3, delay * substeps + 1))
    for _ in range((steps + 500) * substeps):
        late = history[-delay * substeps - 1]
        history.append(history[-1] + (0.2 * late / (1 + late**10) - 0.1 * history[-1]) / substeps)
    return np.array(history[::-1][: steps * substeps : substeps][::-1]) - 0.93


def sparse_reservoir(
    units: int,
    rng: np.random.Generator,
    block: int = 16,
    blocks: float = 0.15,
    density: float = 0.5,
    radius: float = 1.2,
) -> np.ndarray:
    """[units, units] of spectral radius `radius`: a share `blocks` of blocks holds weights, a share `density`
    of each.

    The weights are random anyway, so each row takes multiples of 1/127 of its largest, which int8 holds
    exactly.
    """
    count = -(-units // block)
    chosen = np.kron(rng.random((count, count)) < blocks, np.ones((block, block)))[:units, :units]
    weights = rng.uniform(-1, 1, (units, units)) * chosen * (rng.random((units, units)) < density)
    step = np.maximum(np.abs(weights).max(axis=1, keepdims=True), 1e-9) / 127
    weights = np.rint(weights / step) * step
    return weights * radius / np.abs(np.linalg.eigvals(weights)).max()


@dataclass(frozen=True, eq=False, kw_only=True)
class EchoState:
    """``h' = (1 - leak) h + leak tanh(w_in u + w h + bias)``, ``y = w_out h + offset``; one input, one
    output."""

    w_in: np.ndarray
    w: np.ndarray
    bias: np.ndarray
    leak: float
    w_out: np.ndarray
    offset: float

    def states(self, series: np.ndarray) -> np.ndarray:
        """[steps, units]"""
        h, result = np.zeros(len(self.w)), []
        for u in series:
            h = (1 - self.leak) * h + self.leak * np.tanh(self.w_in * u + self.w @ h + self.bias)
            result.append(h)
        return np.array(result)

    def to_onnx(self, steps: int) -> onnx.ModelProto:
        """The network over a sequence [steps, 1, 1]: a Scan, and a product for the readout."""
        units = len(self.w)
        weights = {
            "w_in": self.w_in[None],
            "w": self.w.T,
            "bias": self.bias,
            "leak": np.array(self.leak),
            "keep": np.array(1 - self.leak),
            "h0": np.zeros((1, units)),
            "w_out": self.w_out[:, None],
            "offset": np.array([self.offset]),
        }
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["u_t", "w_in"], ["entering"]),
                helper.make_node("MatMul", ["h", "w"], ["echo"]),
                helper.make_node("Add", ["entering", "echo"], ["both"]),
                helper.make_node("Add", ["both", "bias"], ["sum"]),
                helper.make_node("Tanh", ["sum"], ["new"]),
                helper.make_node("Mul", ["new", "leak"], ["moved"]),
                helper.make_node("Mul", ["h", "keep"], ["kept"]),
                helper.make_node("Add", ["kept", "moved"], ["h_next"]),
                helper.make_node("Identity", ["h_next"], ["state"]),
            ],
            "leaky_cell",
            [
                helper.make_tensor_value_info("h", TensorProto.FLOAT, (1, units)),
                helper.make_tensor_value_info("u_t", TensorProto.FLOAT, (1, 1)),
            ],
            [
                helper.make_tensor_value_info("h_next", TensorProto.FLOAT, (1, units)),
                helper.make_tensor_value_info("state", TensorProto.FLOAT, (1, units)),
            ],
        )
        nodes = [
            helper.make_node(
                "Scan", ["h0", "u"], ["h_last", "states"], name="reservoir", num_scan_inputs=1, body=body
            ),
            helper.make_node("MatMul", ["states", "w_out"], ["product"], name="readout"),
            helper.make_node("Add", ["product", "offset"], ["y"], name="offset"),
        ]
        graph = helper.make_graph(
            nodes,
            "echo_state",
            [helper.make_tensor_value_info("u", TensorProto.FLOAT, (steps, 1, 1))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (steps, 1, 1))],
            [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def fitted(series: np.ndarray, units: int, rng: np.random.Generator, leak: float = 0.3) -> EchoState:
    """A random reservoir with the readout that predicts `series` best, `AHEAD` steps ahead.

    The ridge is the noise of a hidden state with 7 fractional bits: what the core adds, the readout expects.
    """
    network = EchoState(
        w_in=rng.choice([-2.0, 2.0], units),
        w=sparse_reservoir(units, rng),
        bias=rng.uniform(-0.2, 0.2, units),
        leak=leak,
        w_out=np.zeros(units),
        offset=0.0,
    )
    states, target = network.states(series[:-AHEAD])[WASHOUT:], series[WASHOUT + AHEAD :]
    centre = states.mean(axis=0)
    ridge = len(states) * 2.0**-14 / 12
    w_out = np.linalg.solve(
        (states - centre).T @ (states - centre) + ridge * np.eye(units),
        (states - centre).T @ (target - target.mean()),
    )
    return EchoState(
        w_in=network.w_in,
        w=network.w,
        bias=network.bias,
        leak=leak,
        w_out=w_out,
        offset=float(target.mean() - centre @ w_out),
    )


def normalised_error(target: np.ndarray, got: np.ndarray) -> float:
    """Root mean square error in standard deviations of the target."""
    return float(np.sqrt(np.square(target - got).mean()) / target.std())


def main(folder: str) -> None:
    rng = np.random.default_rng(0)
    series, steps = mackey_glass(4000, rng).astype(np.float32), 400
    network = fitted(series[:3000], 160, rng)
    onnx.save(network.to_onnx(steps), Path(folder) / "echo_state.onnx")
    np.savez(
        Path(folder) / "calib.npz",
        u=np.stack([series[i : i + steps, None, None] for i in range(0, 2400, steps)]),
    )
    states = network.states(series[3000:])
    got = (states @ network.w_out + network.offset)[WASHOUT:-AHEAD]
    print(
        f"{(network.w != 0).mean():.1%} of the reservoir's weights; NRMSE "
        f"{normalised_error(series[3000 + WASHOUT + AHEAD :], got):.4f}, {AHEAD} steps ahead"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")

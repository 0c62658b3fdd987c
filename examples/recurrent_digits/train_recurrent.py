"""Train two recurrent networks on handwritten digits, in NumPy alone, and write them as float ONNX models.

- `digits_gru`: the eight rows of a digit as a sequence, a GRU (linear_before_reset = 1), a fully connected
  layer;
- `digits_cnn_bilstm`: a convolution over the image, an LSTM over its rows in both directions, a fully
  connected layer.

Data and split are those of `examples/digits/train.py`.

    .venv/bin/python examples/recurrent_digits/train_recurrent.py [FOLDER]

Takes about a minute on one core. Seeded; the last bits of the weights depend on NumPy's BLAS and its threads.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "digits"))
from data import load_split
from tape import Value, concat, convolve
from train import CLASSES

__all__ = ["NETWORKS", "Network", "export", "train"]

SEED = 2025
OPSET = 17
#: Rows and columns of an image.
EXTENT = 8
#: Channels of the convolution; units of each recurrent layer (of each direction).
CHANNELS, GRU_UNITS, LSTM_UNITS = 8, 32, 24
EPOCHS, BATCH, RATE, DECAY = 30, 32, 0.004, 1e-4


def _recurrent(
    rng: np.random.Generator, gates: int, directions: int, inputs: int, units: int
) -> dict[str, np.ndarray]:
    """W, R and B in the layout of ONNX."""
    return {
        "W": rng.normal(0, inputs**-0.5, (directions, gates * units, inputs)),
        "R": rng.normal(0, units**-0.5, (directions, gates * units, units)),
        "B": np.zeros((directions, 2 * gates * units)),
    }


def _dense(rng: np.random.Generator, inputs: int) -> dict[str, np.ndarray]:
    return {"fc_weight": rng.normal(0, inputs**-0.5, (CLASSES, inputs)), "fc_bias": np.zeros(CLASSES)}


def _parts(params: dict[str, Value], d: int, gates: int, units: int) -> tuple[Value, Value, Value, Value]:
    """W transposed, R transposed, and both biases of one direction."""
    w, r, b = (params[name][d] for name in "WRB")
    return w.transpose(1, 0), r.transpose(1, 0), b[: gates * units], b[gates * units :]


def gru_steps(params: dict[str, Value], frames: list[Value], units: int) -> Value:
    """The last hidden state. Gates in the order of ONNX: update, reset, new."""
    w, r, wb, rb = _parts(params, 0, 3, units)
    h = Value(np.zeros((frames[0].data.shape[0], units), frames[0].data.dtype))
    for frame in frames:
        entering, kept = frame @ w + wb, h @ r + rb
        z, reset = (
            (entering[:, part] + kept[:, part]).sigmoid()
            for part in (slice(0, units), slice(units, 2 * units))
        )
        new = (entering[:, 2 * units :] + reset * kept[:, 2 * units :]).tanh()
        h = z.complement() * new + z * h
    return h


def lstm_steps(params: dict[str, Value], d: int, frames: list[Value], units: int) -> Value:
    """The last hidden state of one direction. Gates in the order of ONNX: input, output, forget, cell."""
    w, r, wb, rb = _parts(params, d, 4, units)
    h = c = Value(np.zeros((frames[0].data.shape[0], units), frames[0].data.dtype))
    for frame in frames:
        gates = frame @ w + wb + h @ r + rb
        i, o, f = (gates[:, k * units : (k + 1) * units].sigmoid() for k in range(3))
        c = f * c + i * gates[:, 3 * units :].tanh()
        h = o * c.tanh()
    return h


def gru_logits(params: dict[str, Value], images: np.ndarray) -> Value:
    """Logits for N x 1 x 8 x 8 images, row by row."""
    h = gru_steps(params, [Value(images[:, 0, row]) for row in range(EXTENT)], GRU_UNITS)
    return h @ params["fc_weight"].transpose(1, 0) + params["fc_bias"]


def bilstm_logits(params: dict[str, Value], images: np.ndarray) -> Value:
    """Logits for N x 1 x 8 x 8 images: convolution, then row by row from both sides."""
    seen = convolve(Value(images), params["conv_weight"], params["conv_bias"]).relu()
    rows = seen.transpose(0, 2, 3, 1)
    frames = [rows[:, row].reshape(len(images), EXTENT * CHANNELS) for row in range(EXTENT)]
    both = concat(
        [lstm_steps(params, 0, frames, LSTM_UNITS), lstm_steps(params, 1, frames[::-1], LSTM_UNITS)]
    )
    return both @ params["fc_weight"].transpose(1, 0) + params["fc_bias"]


def gru_nodes() -> list[onnx.NodeProto]:
    """The same in ONNX."""
    return [
        helper.make_node(
            "GRU",
            ["image", "W", "R", "B"],
            ["", "hidden"],
            name="gru",
            hidden_size=GRU_UNITS,
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", ["hidden", "first"], ["last"], name="last"),
        helper.make_node("Gemm", ["last", "fc_weight", "fc_bias"], ["logits"], name="fc", transB=1),
    ]


def bilstm_nodes() -> list[onnx.NodeProto]:
    """The same in ONNX."""
    return [
        helper.make_node(
            "Conv",
            ["image", "conv_weight", "conv_bias"],
            ["seen"],
            name="conv",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
        ),
        helper.make_node("Relu", ["seen"], ["positive"], name="relu"),
        # Channels innermost, as the core holds them: there this takes no instruction.
        helper.make_node("Transpose", ["positive"], ["rows"], name="rows", perm=[2, 0, 3, 1]),
        helper.make_node("Reshape", ["rows", "frames_shape"], ["frames"], name="frames"),
        helper.make_node(
            "LSTM",
            ["frames", "W", "R", "B"],
            ["", "hidden"],
            name="bilstm",
            hidden_size=LSTM_UNITS,
            direction="bidirectional",
        ),
        helper.make_node("Transpose", ["hidden"], ["sides"], name="sides", perm=[1, 0, 2]),
        helper.make_node("Flatten", ["sides"], ["both"], name="both", axis=1),
        helper.make_node("Gemm", ["both", "fc_weight", "fc_bias"], ["logits"], name="fc", transB=1),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One of the networks.

    Parameters
    ----------
    initial : from a generator to the parameters, under their names in ONNX
    logits : from parameters and N x 1 x 8 x 8 images to N x 10 logits
    nodes, constants : the graph in ONNX, and what it holds beside the parameters
    shape : shape of the input `image`, which holds the image's values in order
    """

    initial: Callable[[np.random.Generator], dict[str, np.ndarray]]
    logits: Callable[[dict[str, Value], np.ndarray], Value]
    nodes: Callable[[], list[onnx.NodeProto]]
    constants: dict[str, np.ndarray]
    shape: tuple[int, ...]


NETWORKS = {
    "digits_gru": Network(
        initial=lambda rng: {**_recurrent(rng, 3, 1, EXTENT, GRU_UNITS), **_dense(rng, GRU_UNITS)},
        logits=gru_logits,
        nodes=gru_nodes,
        constants={"first": np.array([0])},
        shape=(EXTENT, 1, EXTENT),
    ),
    "digits_cnn_bilstm": Network(
        initial=lambda rng: {
            "conv_weight": rng.normal(0, 1 / 3, (CHANNELS, 1, 3, 3)),
            "conv_bias": np.zeros(CHANNELS),
            **_recurrent(rng, 4, 2, EXTENT * CHANNELS, LSTM_UNITS),
            **_dense(rng, 2 * LSTM_UNITS),
        },
        logits=bilstm_logits,
        nodes=bilstm_nodes,
        constants={"frames_shape": np.array([EXTENT, 1, EXTENT * CHANNELS])},
        shape=(1, 1, EXTENT, EXTENT),
    ),
}


def train(
    network: Network, images: np.ndarray, labels: np.ndarray, epochs: int = EPOCHS
) -> dict[str, np.ndarray]:
    """Adam with weight decay, a cosine rate, and shifts by one pixel as augmentation."""
    rng = np.random.default_rng(SEED)
    params = {name: value.astype(np.float32) for name, value in network.initial(rng).items()}
    mean, square = ({name: np.zeros_like(value) for name, value in params.items()} for _ in range(2))
    step = 0
    for epoch in range(epochs):
        rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        order = rng.permutation(len(images))
        loss = 0.0
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            x, y = np.roll(images[chosen], rng.integers(-1, 2), axis=3), labels[chosen]
            values = {name: Value(value) for name, value in params.items()}
            logits = network.logits(values, x)
            share = np.exp(logits.data - logits.data.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            loss -= float(np.log(share[np.arange(len(y)), y] + 1e-12).sum())
            share[np.arange(len(y)), y] -= 1
            logits.backward(share / np.float32(len(y)))
            step += 1
            for name, value in values.items():
                mean[name] = 0.9 * mean[name] + 0.1 * value.grad
                square[name] = 0.99 * square[name] + 0.01 * value.grad**2
                move = mean[name] / (1 - 0.9**step) / (np.sqrt(square[name] / (1 - 0.99**step)) + 1e-8)
                params[name] = (params[name] - rate * (move + DECAY * params[name])).astype(np.float32)
        print(f"epoch {epoch + 1:2d}/{epochs}  loss {loss / len(order):.4f}", flush=True)
    return params


def export(name: str, params: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The network as ONNX: batch 1, weights as initializers."""
    network = NETWORKS[name]
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(value), key)
        for key, value in {**params, **network.constants}.items()
    ]
    graph = helper.make_graph(
        network.nodes(),
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, network.shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="systolith-digits", ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> int:
    """Train, test, write; fails if an accuracy is below 95 %."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    (images, labels), (test_images, test_labels) = load_split()
    for name, network in NETWORKS.items():
        print(name)
        begin = time.perf_counter()
        params = train(network, images, labels)
        logits = network.logits({key: Value(value) for key, value in params.items()}, test_images).data
        accuracy = float((logits.argmax(1) == test_labels).mean())
        print(
            f"test accuracy {accuracy:.2%} on {len(test_labels)} digits, {time.perf_counter() - begin:.0f} s"
        )
        if accuracy < 0.95:
            print("below 95 %: not written", file=sys.stderr)
            return 1
        path = folder / f"{name}.onnx"
        path.write_bytes(export(name, params).SerializeToString(deterministic=True))
        print(f"wrote {path} ({path.stat().st_size} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

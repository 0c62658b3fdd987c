"""Train the digits CNN of the demo, in NumPy alone, and write it as a float ONNX model.

Data: 1,797 images of 8 x 8 pixels (`data.py`), split once with a fixed seed. The network is
small but has what a compiler must handle: padded convolutions, ReLU, a residual addition, pooling, a fully
connected layer.

    .venv/bin/python examples/digits/train.py [OUTPUT.onnx]

Takes seconds on one core. Seeded; the last bits of the weights depend on NumPy's BLAS and its threads.
"""

import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from data import load_split

__all__ = ["export", "forward", "train"]

SEED = 2024
CLASSES = 10
#: Opset of the written model.
OPSET = 17


# -- layers: each forward returns its result and what its backward needs -------------------------------------
def conv_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """3 x 3 convolution, pad 1, on N x H x W x C, as one matrix product over im2col patches."""
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * h * w, 9 * c)
    return (patches @ weight + bias).reshape(n, h, w, -1), patches


def conv_backward(
    grad: np.ndarray, patches: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of input, weight and bias."""
    n, h, w, k = grad.shape
    flat = grad.reshape(-1, k)
    spread = (flat @ weight.T).reshape(n, h, w, 3, 3, -1)
    padded = np.zeros((n, h + 2, w + 2, spread.shape[-1]), grad.dtype)
    for i in range(3):
        for j in range(3):
            padded[:, i : i + h, j : j + w] += spread[:, :, :, i, j]
    return padded[:, 1:-1, 1:-1], patches.T @ flat, flat.sum(0)


def pool_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2 x 2 maximum, and the mask of where it came from (shared equally among ties)."""
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // 2, 2, w // 2, 2, c)
    best = blocks.max((2, 4), keepdims=True)
    mask = (blocks == best).astype(x.dtype)
    return best[:, :, 0, :, 0], mask / mask.sum((2, 4), keepdims=True)


def pool_backward(grad: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Gradient of the input of `pool_forward`."""
    n, h, w, c = grad.shape
    return (mask * grad[:, :, None, :, None]).reshape(n, 2 * h, 2 * w, c)


# -- the network ---------------------------------------------------------------------------------------------
def initial(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """He-initialised parameters; convolution weights are (kernel row, kernel column, input) x output."""
    params: dict[str, np.ndarray] = {}
    for name, fan_in, fan_out in (
        ("conv1", 9, 16),
        ("conv2", 144, 16),
        ("conv3", 144, 16),
        ("conv4", 144, 32),
        ("fc", 128, CLASSES),
    ):
        params[name + ".w"] = (rng.standard_normal((fan_in, fan_out)) * np.sqrt(2 / fan_in)).astype(
            np.float32
        )
        params[name + ".b"] = np.zeros(fan_out, np.float32)
    return params


def forward(params: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits for N x 8 x 8 x 1 images, and the cache for `backward`."""
    cache: dict[str, np.ndarray] = {}

    def conv(name: str, value: np.ndarray) -> np.ndarray:
        out, cache[name] = conv_forward(value, params[name + ".w"], params[name + ".b"])
        return out

    r1 = np.maximum(conv("conv1", x), 0)
    r2 = np.maximum(conv("conv2", r1), 0)
    r3 = np.maximum(conv("conv3", r2) + r1, 0)
    p1, cache["pool1"] = pool_forward(r3)
    r4 = np.maximum(conv("conv4", p1), 0)
    p2, cache["pool2"] = pool_forward(r4)
    # Flatten in ONNX's own axis order (channel first), so that the exported Gemm needs no permutation.
    flat = p2.transpose(0, 3, 1, 2).reshape(len(x), -1)
    cache.update(r1=r1, r2=r2, r3=r3, r4=r4, flat=flat)
    return flat @ params["fc.w"] + params["fc.b"], cache


def backward(
    params: dict[str, np.ndarray], cache: dict[str, np.ndarray], grad: np.ndarray
) -> dict[str, np.ndarray]:
    """Gradients of all parameters for the gradient of the logits."""
    grads = {"fc.w": cache["flat"].T @ grad, "fc.b": grad.sum(0)}

    def conv(name: str, value: np.ndarray) -> np.ndarray:
        back, grads[name + ".w"], grads[name + ".b"] = conv_backward(value, cache[name], params[name + ".w"])
        return back

    g = (grad @ params["fc.w"].T).reshape(len(grad), 32, 2, 2).transpose(0, 2, 3, 1)
    g = conv("conv4", pool_backward(g, cache["pool2"]) * (cache["r4"] > 0))
    g = pool_backward(g, cache["pool1"]) * (cache["r3"] > 0)
    skip = g
    g = conv("conv3", g) * (cache["r2"] > 0)
    g = (conv("conv2", g) + skip) * (cache["r1"] > 0)
    conv("conv1", g)
    return grads


def train(
    images: np.ndarray, labels: np.ndarray, *, epochs: int = 20, batch: int = 64
) -> dict[str, np.ndarray]:
    """SGD with momentum, weight decay, a cosine rate, and shifts by one pixel as augmentation."""
    rng = np.random.default_rng(SEED)
    params = initial(rng)
    speed = {name: np.zeros_like(value) for name, value in params.items()}
    x_all = images.transpose(0, 2, 3, 1)
    for epoch in range(epochs):
        rate = np.float32(0.05 * 0.5 * (1 + np.cos(np.pi * epoch / epochs)))
        order = rng.permutation(len(x_all))
        loss = 0.0
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            x, y = x_all[chosen], labels[chosen]
            shift = rng.integers(-1, 2)
            if shift:
                x = np.roll(x, shift, axis=2)
            logits, cache = forward(params, x)
            exp = np.exp(logits - logits.max(1, keepdims=True))
            prob = exp / exp.sum(1, keepdims=True)
            loss -= float(np.log(prob[np.arange(len(y)), y] + 1e-12).sum())
            prob[np.arange(len(y)), y] -= 1
            for name, grad in backward(params, cache, prob / len(y)).items():
                speed[name] = np.float32(0.9) * speed[name] - rate * (grad + np.float32(1e-4) * params[name])
                params[name] = params[name] + speed[name]
        print(f"epoch {epoch + 1:2d}/{epochs}  loss {loss / len(order):.4f}", flush=True)
    return params


def export(params: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The network as ONNX: fixed batch of 1, weights as initializers."""
    initializers, nodes = [], []

    def constant(name: str, value: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        output = "logits" if name == "fc" else name + "_out"
        nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def conv(source: str, name: str, in_channels: int) -> str:
        weight = params[name + ".w"].reshape(3, 3, in_channels, -1).transpose(3, 2, 0, 1)
        inputs = [source, constant(name + "_weight", weight), constant(name + "_bias", params[name + ".b"])]
        return node("Conv", inputs, name, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1])

    def pool(source: str, name: str) -> str:
        return node("MaxPool", [source], name, kernel_shape=[2, 2], strides=[2, 2])

    r1 = node("Relu", [conv("image", "conv1", 1)], "relu1")
    r2 = node("Relu", [conv(r1, "conv2", 16)], "relu2")
    total = node("Add", [conv(r2, "conv3", 16), r1], "add")
    r3 = node("Relu", [total], "relu3")
    r4 = node("Relu", [conv(pool(r3, "pool1"), "conv4", 16)], "relu4")
    flat = node("Flatten", [pool(r4, "pool2")], "flatten", axis=1)
    node(
        "Gemm",
        [flat, constant("fc_weight", params["fc.w"].T), constant("fc_bias", params["fc.b"])],
        "fc",
        transB=1,
    )
    graph = helper.make_graph(
        nodes,
        "digits_cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="systolith-digits", ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> int:
    """Train, test, write; fails if the accuracy is below 97 %."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("digits_cnn.onnx")
    begin = time.perf_counter()
    (images, labels), (test_images, test_labels) = load_split()
    params = train(images, labels)
    logits, _ = forward(params, test_images.transpose(0, 2, 3, 1))
    accuracy = float((logits.argmax(1) == test_labels).mean())
    print(f"test accuracy {accuracy:.2%} on {len(test_labels)} digits, {time.perf_counter() - begin:.0f} s")
    if accuracy < 0.97:
        print("below 97 %: not written", file=sys.stderr)
        return 1
    path.write_bytes(export(params).SerializeToString(deterministic=True))
    print(f"wrote {path} ({path.stat().st_size} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

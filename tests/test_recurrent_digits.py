"""The recurrent networks that were trained on digits: from ONNX file to answers on every level."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from systolith import api

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EXAMPLE = EXAMPLES / "recurrent_digits"
NAMES = ["digits_gru", "digits_cnn_bilstm"]


@pytest.fixture(scope="module")
def training():
    """The training script as a module."""
    before = list(sys.path)
    sys.path.insert(0, str(EXAMPLE))
    try:
        import train_recurrent

        return train_recurrent
    finally:
        sys.path[:] = before


@pytest.fixture(scope="module")
def calibrated(training):
    """Per network: the calibrated model, test images in the shape of its input, labels."""
    (train_images, _), (images, labels) = training.load_split()
    return {
        name: (
            api.import_model(
                EXAMPLE / f"{name}.onnx", {"image": train_images[:128].reshape(-1, *network.shape)}
            ),
            images.reshape(-1, *network.shape),
            labels,
        )
        for name, network in training.NETWORKS.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_derivative(training, name):
    seed = 6
    rng = np.random.default_rng(seed)
    network = training.NETWORKS[name]
    params = network.initial(rng)
    x, weight = rng.random((2, 1, 8, 8)), rng.standard_normal((2, 10))

    def logits(values):
        taped = {key: training.Value(value) for key, value in values.items()}
        return taped, network.logits(taped, x)

    taped, result = logits(params)
    result.backward(weight)
    for key, value in params.items():
        for _ in range(3):
            index = tuple(int(rng.integers(extent)) for extent in value.shape)
            change = []
            for step in (1e-6, -1e-6):
                moved = value.copy()
                moved[index] += step
                change.append(float((logits({**params, key: moved})[1].data * weight).sum()))
            slope = (change[0] - change[1]) / 2e-6
            assert taped[key].grad[index] == pytest.approx(slope, rel=1e-4, abs=1e-6), (
                f"{key}{index}, seed {seed}"
            )


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_exports_what_it_trained(training, name):
    (images, labels), _ = training.load_split()
    network = training.NETWORKS[name]
    params = training.train(network, images, labels, epochs=3)
    logits = network.logits({key: training.Value(value) for key, value in params.items()}, images).data
    assert np.mean(logits.argmax(1) == labels) > 0.5
    session = onnxruntime.InferenceSession(
        training.export(name, params).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    exported = np.concatenate([session.run(None, {"image": x.reshape(network.shape)})[0] for x in images[:5]])
    np.testing.assert_allclose(exported, logits[:5], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "least"), [("digits_gru", 0.95), ("digits_cnn_bilstm", 0.98)])
def test_int8_keeps_the_accuracy(calibrated, name, least):
    partition, images, labels = calibrated[name]
    assert len(partition.steps) == 1
    session = onnxruntime.InferenceSession(str(EXAMPLE / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    floats = np.array([session.run(None, {"image": x})[0].argmax() for x in images])
    ours = np.array([api.run_reference(partition, {"image": x}).outputs["logits"].argmax() for x in images])
    print(f"{name}: float {np.mean(floats == labels):.2%}, int8 {np.mean(ours == labels):.2%}")
    assert np.mean(floats == labels) >= least
    assert np.mean(ours == labels) >= np.mean(floats == labels) - 0.01


@pytest.mark.parametrize(("backend", "arch"), [("machine", "array16"), ("rtl", "array8")])
@pytest.mark.parametrize("name", NAMES)
def test_every_level_gives_the_bits_of_the_reference(calibrated, name, backend, arch):
    partition, images, labels = calibrated[name]
    with api.Session(backend, api.compile(partition, arch)) as session:
        for x in images[:4]:
            expected, got = api.run_reference(partition, {"image": x}), session.run({"image": x})
            for key, right in expected.raw.items():
                np.testing.assert_array_equal(got.raw[key], right)

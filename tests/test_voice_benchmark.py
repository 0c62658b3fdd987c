"""The benchmark of the voice detector on a model and a recording made here, so that it does not rot."""

import json
import wave

import numpy as np
import onnx
import pytest

from tests.compiler.test_bound_states import voice_model
from tests.test_benchmarks import script

voice = script("voice")


@pytest.fixture
def folder(tmp_path):
    """A small model with the names and shapes of the real one, and 25 frames of noise that grows and
    fades."""
    onnx.save(
        voice_model(
            x="input",
            probability="speech_probs",
            width=voice.CONTEXT + voice.NEW,
            units=voice.UNITS,
            classes=1,
        ),
        tmp_path / voice.MODEL,
    )
    samples = (
        np.random.default_rng(7).normal(0, 0.1, 25 * voice.NEW)
        * np.sin(np.arange(25 * voice.NEW) / 4000) ** 2
    )
    with wave.open(str(tmp_path / voice.RECORDING), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(voice.RATE)
        file.writeframes((samples * 32767).astype(np.int16).tobytes())
    return tmp_path


def test_it_measures_bits_cycles_and_agreement(folder, capsys):
    status = voice.main(
        [str(folder), "--arch", "array8", "--frames", "20", "--json", str(folder / "out.json")]
    )
    found = json.loads((folder / "out.json").read_text())
    (result,) = found["results"]
    assert (result["frames"], result["frames_that_differ"]) == (20, 0)
    assert [(entry["frames"], entry["count"]) for entry in found["agreement"]] == [
        ("all", 20),
        ("calibration", 10),
        ("the rest", 10),
    ]
    assert status == (0 if found["agreement"][0]["holds"] else 1)
    assert result["hertz_for_real_time"] == result["most_cycles"] * 31.25
    assert "equal" in capsys.readouterr().out


def test_settings_of_the_quantiser_are_compared(folder):
    model, frames = folder / voice.MODEL, voice.recording(folder / voice.RECORDING)[:12]
    floats = voice.in_float(model, frames)
    found = voice.choices(model, frames, floats)
    assert [info["choice"] for info in found] == list(voice.CHOICES)
    for info in found:
        assert [entry["count"] for entry in info["frames"]] == [12, 6, 6]
        # The reference follows the float model; the state goes from frame to frame.
        assert info["frames"][0]["mean_difference"] < 0.2
    assert len({info["frames"][0]["mean_difference"] for info in found}) > 1


def test_frames_repeat_the_end_of_the_one_before(folder):
    frames = voice.recording(folder / voice.RECORDING)
    assert frames.shape == (25, 1, voice.CONTEXT + voice.NEW)
    np.testing.assert_array_equal(frames[3, 0, : voice.CONTEXT], frames[2, 0, -voice.CONTEXT :])
    assert not frames[0, 0, : voice.CONTEXT].any()


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="does not exist: give the folder"):
        voice.main([str(tmp_path)])

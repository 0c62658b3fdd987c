"""Silero VAD, a voice detector, frame by frame on RTL with its state on the core: accuracy, bits and cycles.

    .venv/bin/python benchmarks/voice.py FOLDER [--arch A]... [--memory LATENCY:BYTES]... [--frames N]
    [--percentile P] [--json FILE] [--record]

FOLDER holds `silero_vad_16k_sequence.onnx` and a mono recording of 16 bit and 16 kHz, `speech_16k.wav`;
docs/silero-vad.md says where they come from. The first half of the recording calibrates, the figures of the
other half are given apart. The benchmark fails where a bit differs from the reference, or the detector is
further from float than it must be.
"""

import argparse
import sys
import wave
from pathlib import Path

import numpy as np
import onnxruntime
from record import record

from systolith import api
from systolith.host.runner import Runner
from systolith.options import Running
from systolith.reference.plan import Plan, ReferenceCores
from systolith.report import LAYER_COLUMNS, Reporter, layer_rows, write_json
from systolith.session import Session
from systolith.spec.memory import MemoryTiming

MODEL, RECORDING = "silero_vad_16k_sequence.onnx", "speech_16k.wav"
STATES = {"hn": "h", "cn": "c"}
UNITS, RATE = 128, 16_000
#: New samples of a frame, and those of the frame before that it repeats.
NEW, CONTEXT = 512, 64
#: Furthest mean difference of the probability, and least share of equal decisions.
FURTHEST, LEAST_EQUAL, THRESHOLD = 0.03, 0.97, 0.5
#: Settings of the quantiser that the docs compare.
CHOICES = {
    "least and greatest value (the default)": {},
    **{f"{share}th percentile": {"percentile": share} for share in (99.999, 99.99, 99.9)},
    "hidden states of 16 bits": {"hidden": 16},
}
KEPT = (
    "arch",
    "memory",
    "frames",
    "frames_that_differ",
    "cycles",
    "most_cycles",
    "macs",
    "roofline_cycles",
    "utilisation",
    "hertz_for_real_time",
    "layers",
)
COLUMNS = (
    "arch",
    "memory",
    "frames",
    "bits",
    "cycles a frame",
    "roofline",
    "MACs",
    "of peak",
    "real time at",
    "RTL, s",
)


def recording(path: Path) -> np.ndarray:
    """Frames [N, 1, CONTEXT + NEW] of a recording, -1 to 1."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise SystemExit(f"{path} must be a mono recording of 16 bit and {RATE:,} Hz")
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / (1 << 15)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + NEW)[::NEW, None].copy()


def in_float(model: Path, frames: np.ndarray) -> np.ndarray:
    """Probability of speech in each frame, by ONNX Runtime in float."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    zero = np.zeros((1, 1, UNITS), np.float32)
    return session.run(["speech_probs"], {"input": frames[:, 0], "h": zero, "c": zero})[0].ravel()


def on_reference(partition: Plan, frames: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """What the core must give, frame by frame, in int8; and the probability of each frame."""
    runner, cores = Runner(partition), ReferenceCores(partition)
    runs = [runner.run({"input": frame}, cores) for frame in frames]
    return [run.raw["speech_probs"] for run in runs], np.array(
        [run.outputs["speech_probs"].item() for run in runs]
    )


def on_rtl(
    partition: Plan, frames: np.ndarray, expected: list[np.ndarray], arch: str, memory: MemoryTiming
) -> tuple[dict, np.ndarray]:
    """Figures of one core, and the probability of each frame."""
    image = api.compile(partition, arch, memory=memory)
    probabilities, differ, cycles, seconds = [], 0, [], 0.0
    with Session("rtl", image, Running(memory=memory)) as session:
        for frame, right in zip(frames, expected, strict=True):
            result = session.run({"input": frame})
            differ += int((result.raw["speech_probs"] != right).any())
            cycles.append(result.cycles)
            seconds += result.seconds
            probabilities.append(result.outputs["speech_probs"].item())
        info = api.describe(image, result.cycles, layer_cycles=result.layer_cycles)
    return {
        **info,
        "memory": {"latency": memory.latency, "bytes_per_cycle": memory.rate(image.arch)},
        "frames": len(frames),
        "frames_that_differ": differ,
        "most_cycles": max(cycles),
        "hertz_for_real_time": max(cycles) * RATE / NEW,
        "seconds": round(seconds, 3),
    }, np.array(probabilities)


def agreement(name: str, got: np.ndarray, expected: np.ndarray) -> dict:
    """How close the detector is to float."""
    error = np.abs(got - expected)
    equal = float(((got > THRESHOLD) == (expected > THRESHOLD)).mean())
    return {
        "frames": name,
        "count": len(got),
        "mean_difference": float(error.mean()),
        "largest_difference": float(error.max()),
        "same_decision": equal,
        "holds": bool(error.mean() <= FURTHEST and equal >= LEAST_EQUAL),
    }


def agreements(got: np.ndarray, expected: np.ndarray) -> list[dict]:
    """The same of all frames, of the half that calibrated, and of the other."""
    half = len(got) // 2
    return [
        agreement("all", got, expected),
        agreement("calibration", got[:half], expected[:half]),
        agreement("the rest", got[half:], expected[half:]),
    ]


def choices(model: Path, frames: np.ndarray, floats: np.ndarray) -> list[dict]:
    """What other settings of the quantiser give, on the reference."""
    found = []
    for name, options in CHOICES.items():
        calib = {"input": frames[: len(frames) // 2]}
        partition = api.import_model(model, calib, states=STATES, **options)
        _, probabilities = on_reference(partition, frames)
        found.append({"choice": name, "frames": agreements(probabilities, floats)})
    return found


def memory_timing(text: str) -> MemoryTiming:
    """LATENCY:BYTES, in cycles and bytes per cycle."""
    latency, _, rate = text.partition(":")
    return MemoryTiming(latency=int(latency), bytes_per_cycle=int(rate) if rate else None)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", action="append", help="may be repeated; default: array8 and array16")
    parser.add_argument(
        "--memory",
        action="append",
        type=memory_timing,
        help="LATENCY:BYTES per cycle; may be repeated; default: 32 and the bus width",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=None,
        help="number of frames, from the beginning of the recording; default: all",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=100.0,
        help="share of the calibration data's values that int8 covers",
    )
    parser.add_argument("--json", default=None)
    parser.add_argument("--record", action="store_true", help="write results/voice.json, for the docs")
    given = parser.parse_args(arguments)
    model, path = given.folder / MODEL, given.folder / RECORDING
    for file in (model, path):
        if not file.is_file():
            raise SystemExit(f"{file} does not exist: give the folder that holds {MODEL} and {RECORDING}")
    reporter = Reporter()
    frames = recording(path)[: given.frames]
    half = len(frames) // 2
    floats = in_float(model, frames)
    with reporter.progress() as progress:
        progress("calibrating")
        partition = api.import_model(
            model, {"input": frames[:half]}, states=STATES, percentile=given.percentile
        )
        progress("running on reference")
        expected, _ = on_reference(partition, frames)
    rows, results, compared = [], [], []
    for arch in given.arch or ["array8", "array16"]:
        for memory in given.memory or [MemoryTiming()]:
            with reporter.progress() as progress:
                progress(f"running on {arch}")
                info, probabilities = on_rtl(partition, frames, expected, arch, memory)
            results.append(info)
            compared = agreements(probabilities, floats)
            rows.append(
                (
                    arch,
                    f"{info['memory']['bytes_per_cycle']} B/cycle, {info['memory']['latency']} cycles",
                    f"{info['frames']:,}",
                    "equal" if not info["frames_that_differ"] else f"{info['frames_that_differ']} DIFFER",
                    f"{info['most_cycles']:,}",
                    f"{info['roofline_cycles']:,}",
                    f"{info['macs']:,}",
                    f"{info['utilisation']:.1%}",
                    f"{info['hertz_for_real_time'] / 1000:,.0f} kHz",
                    f"{info['seconds']:.1f}",
                )
            )
            reporter.table(f"layers on {arch}", LAYER_COLUMNS, layer_rows(info["layers"]))
    reporter.table("Silero VAD on RTL", COLUMNS, rows, left=2)
    reporter.table(
        "against ONNX Runtime in float",
        ("frames", "count", "mean difference", "largest", "same decision", "holds"),
        [
            (
                c["frames"],
                f"{c['count']:,}",
                f"{c['mean_difference']:.4f}",
                f"{c['largest_difference']:.3f}",
                f"{c['same_decision']:.2%}",
                "yes" if c["holds"] else "NO",
            )
            for c in compared
        ],
        left=1,
    )
    write_json(given.json, {"agreement": compared, "results": results})
    if given.record:
        kept = [{key: info[key] for key in KEPT} for info in results]
        with reporter.progress() as progress:
            progress("comparing settings of the quantiser")
            other = choices(model, frames, floats)
        cores = dict.fromkeys(info["arch"] for info in results)
        depends = [f"{kind}:{core}" for core in cores for kind in ("core", "programs")]
        found = {"cores": kept, "agreement": compared, "choices": other}
        record("voice", "python benchmarks/voice.py FOLDER --record", found, depends)
    return 0 if compared[0]["holds"] and not any(info["frames_that_differ"] for info in results) else 1


if __name__ == "__main__":
    sys.exit(main())

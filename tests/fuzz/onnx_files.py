"""Cases of `verify`, `explain` and `compile` with damaged ONNX files."""

from __future__ import annotations

import random
from collections.abc import Iterator

import onnx

from tests.fuzz.kit import Case
from tests.fuzz.onnx_damage import damage_bytes, damage_field, damage_meaning
from tests.fuzz.onnx_seeds import seeds

__all__ = ["QUICK", "cases"]

QUICK = 60
_ARCHS = ("array8", "array8", "tiny", "array16", "icebreaker")
#: First bytes of other files, and of ONNX files that end early.
_MAGICS = (
    *(b"", b"\0", b"{}", b"<html>", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x04.", b"GGUF", b"SYSLIMG\0"),
    *(b"\x1c\0\0\0TFL3", b"version https://git-lfs", b"\x40" + b"\0" * 7 + b"{}", b"ir_version: 7"),
    *(b"\x08\x07", b"\x12\xff\xff\xff\xff\x07"),
)


def cases(rng: random.Random) -> Iterator[Case]:
    """A small model, damaged somehow, imported and compared or estimated."""
    while True:
        # Models in float take ten times as long.
        quantised = [seed for seed in seeds() if not seed.calib]
        floats = [seed for seed in seeds() if seed.calib]
        seed = rng.choice(floats if rng.random() < 0.25 else quantised)
        kind = rng.random()
        if kind < 0.02:
            name, data = "another file", rng.choice(_MAGICS) + rng.randbytes(rng.choice([0, 100]))
        elif kind < 0.2:
            name, data = "bytes", damage_bytes(rng, seed.model)
        elif kind < 0.55:
            model = onnx.ModelProto.FromString(seed.model)
            name = "; ".join(damage_field(rng, model) for _ in range(rng.choice([1, 1, 1, 2])))
            data = model.SerializeToString()
        else:
            name, data = damage_meaning(rng, onnx.ModelProto.FromString(seed.model))
        arch = rng.choice(_ARCHS)
        command = rng.choice(["verify"] * 6 + ["explain", "compile"])
        argv = [command, "model.onnx", "--arch", arch]
        files = {"model.onnx": data}
        if command == "verify":
            argv += ["--on", "reference,machine"]
        if command == "compile":
            argv += ["-o", "model.sysl"]
        if seed.calib:
            argv += ["--calib", "calib.npz"]
            files["calib.npz"] = seed.calib
            if rng.random() < 0.1:
                argv += ["--percentile", "99.9"]
        yield Case(name=f"{seed.name}: {name}", files=files, argv=tuple(argv))

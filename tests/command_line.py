"""What the tests of the command line share: its commands called in this process, and a small image."""

import pytest

from systolith import cli
from systolith.spec.arch import PRESETS
from systolith.spec.image import Image
from systolith.spec.isa import isa_for
from systolith.spec.manifest import LayerInfo
from systolith.spec.plan import CoreStep

__all__ = ["invoke", "refused", "small_image"]


def invoke(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence of a refusal: status 2, one line after those of the progress, no traceback."""
    status, _, err = invoke(capsys, *arguments)
    assert status == 2
    err = err[err.rindex("systolith: ") :]
    assert err.startswith("systolith: ")
    assert err.count("\n") == 1
    assert "internal error" not in err
    assert "Traceback" not in err
    return err


def small_image() -> Image:
    """An image with two run instructions, the first of which belongs to a layer."""
    arch = PRESETS["tiny"]
    isa = isa_for(arch)
    words = [
        isa.encode(isa.make("HALT")),
        isa.encode(isa.make("LOAD", bytes=16)),
        isa.encode(isa.make("HALT")),
    ]
    layer = LayerInfo(
        name="conv[1]",
        op="Conv",
        nodes=("conv[1]",),
        tensor="y",
        macs=8,
        cycles=4,
        roofline_cycles=2,
        limit="array",
    )
    return Image(
        arch=arch,
        model="m",
        program=b"".join(words),
        load_entry=0,
        load_count=1,
        data_bytes=64,
        inputs=(),
        outputs=(),
        tensors=(),
        steps=(
            CoreStep(
                entry=isa.word_bytes,
                count=2,
                cycles=4,
                inputs=(),
                outputs=(),
                layers=(layer,),
                owners=(0, -1),
            ),
        ),
    )

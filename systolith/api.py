"""The Python API: compile, run, verify, explain.

Every verb takes a model as the path of an ONNX file, as a ModelProto or as a quantised graph, and an
architecture as the name of a preset, a TOML file or an `ArchConfig`. `progress` is called with one line of
text at each stage; ``None`` is silent.

The verbs' keywords are those of `options.Importing` and `options.Running`; here they become these objects,
with which everything below works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

from systolith.arrays import ApiError, Inputs, Source, check_inputs, load_arrays, random_inputs
from systolith.compiling import compile_model, explain_model
from systolith.evidence.difference import Difference, DifferenceError
from systolith.host.inputs import InputError
from systolith.importing import (
    AccuracyError,
    FarFromFloatWarning,
    HostOnlyError,
    Model,
    ModelFile,
    Progress,
    existing,
    import_file,
)
from systolith.options import Importing, ImportOptions, Running
from systolith.reference.graph import QGraph
from systolith.reference.plan import Plan
from systolith.results import (
    BackendResult,
    Description,
    RunResult,
    StepRun,
    VerifyResult,
    describe,
    host_rows,
)
from systolith.running import run_model
from systolith.session import BACKENDS, DEFAULT_BACKENDS, Session, run_reference
from systolith.spec.arch import ArchConfig
from systolith.spec.image import Image
from systolith.spec.memory import FULL_RATE, MemoryTiming
from systolith.verifying import verify_model

__all__ = [
    "BACKENDS",
    "AccuracyError",
    "ApiError",
    "BackendResult",
    "Description",
    "Difference",
    "DifferenceError",
    "FarFromFloatWarning",
    "HostOnlyError",
    "ImportOptions",
    "Importing",
    "InputError",
    "RunResult",
    "Running",
    "Session",
    "StepRun",
    "VerifyResult",
    "check_inputs",
    "compile",
    "describe",
    "explain",
    "host_rows",
    "import_graph",
    "import_model",
    "load_arrays",
    "random_inputs",
    "run",
    "run_reference",
    "verify",
]

Arch = str | Path | ArchConfig


def import_model(
    model: ModelFile,
    calib: Source = None,
    *,
    progress: Progress = None,
    **importing: Unpack[ImportOptions],
) -> Plan:
    """An ONNX file as a plan: steps of the core, each a quantised graph, and steps of the host.

    Parameters
    ----------
    calib, importing : see `options.Importing`

    Raises
    ------
    ApiError       If the file does not exist, or an option says what the model does not allow.
    CompileError   If the model is refused; from the compiler, naming the node.
    """
    return import_file(model, Importing(calib=calib, **importing), progress).plan


def import_graph(model: ModelFile, calib: Source = None) -> QGraph:
    """The quantised graph of an ONNX file that the core runs as a whole; `import_model` takes any.

    Raises
    ------
    ApiError, CompileError   As `import_model`; a node that only the host could run is refused.
    """
    from systolith.compiler import partition

    return partition.import_model(existing(model), load_arrays(calib, "calibration data"))


def compile(
    model: Model,
    arch: Arch,
    calib: Source = None,
    progress: Progress = None,
    memory: MemoryTiming = FULL_RATE,
    dump: str | Path | None = None,
    streaming: bool = False,
    **importing: Unpack[ImportOptions],
) -> Image:
    """Compile a model for an architecture.

    Parameters
    ----------
    memory    : external memory for which the program is made; it runs with any other too
    dump      : directory for every level of the compilation as text, see `compiler.dump`; made where it is
                missing
    streaming : recurrent layers continue from run to run, see `Session`; else each run begins anew
    calib, importing : see `options.Importing`

    Raises
    ------
    ApiError, ArchError, CompileError, HostStepError   One sentence naming the culprit.
    """
    return compile_model(
        model,
        arch,
        Importing(calib=calib, **importing),
        memory=memory,
        dump=dump,
        streaming=streaming,
        progress=progress,
    ).image


def explain(
    model: Model,
    arch: Arch,
    calib: Source = None,
    progress: Progress = None,
    memory: MemoryTiming = FULL_RATE,
    **importing: Unpack[ImportOptions],
) -> Description:
    """Estimated cycles, roofline and limit of every layer, and the nodes on the host, before anything runs.

    Parameters and errors are those of `compile`; a float model needs no calibration data, because no cycle
    depends on it.
    """
    found = explain_model(model, arch, Importing(calib=calib, **importing), memory=memory, progress=progress)
    return describe(found.image, found.image.cycles, fidelity=found.fidelity, notes=found.notes)


def run(
    model_or_image: Model | Image,
    inputs: Inputs,
    on: str = "machine",
    arch: Arch | None = None,
    calib: Source = None,
    progress: Progress = None,
    memory: MemoryTiming = FULL_RATE,
    port: str | None = None,
    max_cycles: int | None = None,
    **importing: Unpack[ImportOptions],
) -> RunResult:
    """One inference on a backend.

    Parameters
    ----------
    model_or_image : an `Image`, a .sysl file, or a model (which needs `arch` except on the reference)
    inputs         : an array per input of the model, of its own shape and type; of a model with one input,
                     that array
    arch           : where it is None, that of the board in simulation
    calib, importing : see `options.Importing`
    memory, port, max_cycles : see `options.Running`

    Raises
    ------
    ApiError, ArchError, CompileError, ImageError   One sentence naming the culprit.
    """
    running = Running(memory=memory, port=port, max_cycles=max_cycles)
    return run_model(model_or_image, inputs, on, arch, Importing(calib=calib, **importing), running, progress)


def verify(
    model: Model,
    arch: Arch,
    inputs: Inputs = None,
    on: str | Sequence[str] = DEFAULT_BACKENDS,
    calib: Source = None,
    seed: int = 0,
    locate: bool = True,
    progress: Progress = None,
    sources: Mapping[str, str] | None = None,
    waveform: str | Path | None = None,
    memory: MemoryTiming = FULL_RATE,
    port: str | None = None,
    max_cycles: int | None = None,
    **importing: Unpack[ImportOptions],
) -> VerifyResult:
    """Run one inference on every backend and compare every bit that every step gives with the reference.

    Of a float model, signal to noise is measured on the calibration data.

    Parameters
    ----------
    on       : backends, or one; the reference always runs, as the one to compare with
    seed     : seed of the random inputs that are drawn where `inputs` is None
    locate   : where something differs, search the first instruction and cycle that went wrong
    sources  : Verilog to run as 'rtl', and to synthesise for 'netlist', instead of the generated core, file
               name to text
    waveform : where RTL or netlist differ, write the cycles around the first wrong beat here (.vcd or .fst)
    memory   : external memory of the simulated core and of the estimates
    port, max_cycles : see `options.Running`
    calib, importing : see `options.Importing`

    Raises
    ------
    ApiError, ArchError, CompileError, LinkDown   One sentence naming the culprit.
    """
    running = Running(memory=memory, port=port, sources=sources, max_cycles=max_cycles)
    return verify_model(
        model,
        arch,
        inputs,
        Importing(calib=calib, **importing),
        running,
        on=on,
        seed=seed,
        locate=locate,
        waveform=waveform,
        progress=progress,
    )

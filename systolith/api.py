"""The Python API: compile, run, verify, explain. A thin layer over compiler, reference, host and sim.

Every function takes a model as the path of an ONNX file, an architecture as a preset's name, a TOML file or
an `ArchConfig`, and calibration data as an .npz path or a mapping (per input, samples stacked on the first
axis).
`progress` is called with one line of text at each stage; ``None`` is silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from systolith.arrays import (
    ApiError,
    Arrays,
    Source,
    as_partition,
    check_inputs,
    input_specs,
    load_arrays,
    random_inputs,
)
from systolith.device_port import simulated_arch
from systolith.host.device import DeviceError
from systolith.host.driver import quantise
from systolith.host.segments import HostSegments
from systolith.host.serial import LinkDown
from systolith.reference.graph import QGraph
from systolith.reference.partition import Partition
from systolith.results import BackendResult, Difference, RunResult, VerifyResult, describe, host_rows
from systolith.session import BACKENDS, DEFAULT_BACKENDS, Session, core_sources, run_reference
from systolith.spec.arch import ArchConfig, load_arch
from systolith.spec.image import Image, ImageError
from systolith.spec.memory import FULL_RATE, MemoryTiming

__all__ = [
    "BACKENDS",
    "ApiError",
    "BackendResult",
    "Difference",
    "RunResult",
    "Session",
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

Progress = Callable[[str], None] | None
#: Bits of hidden states.
HIDDEN = ("8", "16", "auto")
States = Mapping[str, str] | None


# -- the verbs -----------------------------------------------------------------------------------------------
def import_model(
    model: str | Path,
    calib: Source = None,
    states: States = None,
    hidden: int | str = 8,
    percentile: float = 100.0,
    progress: Progress = None,
) -> Partition:
    """An ONNX file as its quantised graph for the core, and what the host runs before and after that.

    `states` binds outputs of the model to the inputs that they are to be given as in the next run: that state
    stays on the core. `hidden` is the bits that the recurrence of recurrent layers sees of their hidden
    states: 8, 16, or 'auto', which takes 16 where that brings the worst output 1 dB nearer to the float model
    on the calibration data. `percentile` is the share of the calibration data's values, tensor by tensor,
    that int8 covers; where few are far from the others, less than 100 leaves more steps for these.

    Raises
    ------
    ApiError       If the file does not exist, or `hidden` says what the model does not allow.
    CompileError   If the model is refused; from the compiler, naming the node.
    """
    from systolith.compiler.partition import partition_model
    from systolith.evidence.fidelity import chosen_hidden, has_recurrent_layers

    path, data = _existing(model), load_arrays(calib, "calibration data")
    if not 50 < percentile <= 100:
        raise ApiError(f"percentile is {percentile!r}: give more than 50, up to 100")
    if str(hidden) not in HIDDEN:
        raise ApiError(f"hidden is {hidden!r}: choose from {', '.join(HIDDEN)}")
    if hidden != "auto":
        partition = partition_model(path, data, states, int(hidden), percentile)
        if int(hidden) == 16 and not has_recurrent_layers(partition):
            raise ApiError(
                "the model has no recurrent layer on the core, so there is no hidden state of 16 bits: "
                "leave hidden out"
            )
        return partition
    if data is None:
        raise ApiError(
            "hidden 'auto' compares with the float model on calibration data: give a float model and that "
            "data, or 8 or 16"
        )
    return chosen_hidden(path, data, states, percentile, lambda text: _tell(progress, text))


def import_graph(model: str | Path, calib: Source = None) -> QGraph:
    """The quantised graph of an ONNX file that the core runs as a whole; `import_model` takes any.

    Raises
    ------
    ApiError, CompileError   As `import_model`; a node that only the host could run is refused.
    """
    from systolith.compiler import frontend

    return frontend.import_model(_existing(model), load_arrays(calib, "calibration data"))


def compile(
    model: str | Path | QGraph | Partition,
    arch: str | Path | ArchConfig,
    calib: Source = None,
    progress: Progress = None,
    memory: MemoryTiming = FULL_RATE,
    dump: str | Path | None = None,
    streaming: bool = False,
    states: States = None,
    hidden: int | str = 8,
    percentile: float = 100.0,
) -> Image:
    """Compile a model for an architecture.

    Parameters
    ----------
    memory : external memory for which the program is made; it runs with any other too
    streaming : recurrent layers continue from run to run, see `Session`; else each run begins anew
    states : output -> input of the model: state that stays on the core from run to run, zero at first
    hidden, percentile : as for `import_model`
    dump   : directory for every level of the compilation as text, see `compiler.dump`; made where it is
             missing

    Raises
    ------
    ApiError, ArchError, CompileError, SegmentError   One sentence naming the culprit.
    """
    config = load_arch(arch)
    partition = _imported(model, calib, progress, states, hidden, percentile)
    from systolith.compiler.driver import compile_levels

    if streaming:
        from systolith.compiler.passes.streaming import carry_states

        partition = replace(partition, graph=carry_states(partition.graph))
    _tell(progress, f"compiling {partition.graph.name} for {config.name}")
    # What ONNX Runtime does not accept is refused now, not when the image runs.
    HostSegments(partition.host)
    compilation = compile_levels(partition.graph, config, memory)
    if dump is not None:
        from systolith.compiler.dump import dump_levels

        try:
            dump_levels(partition, compilation, Path(dump))
        except OSError as error:
            raise ApiError(f"cannot write the dump to {str(dump)!r}: {error.strerror or error}") from error
    return replace(compilation.image, host=partition.host)


def explain(
    model: str | Path | QGraph | Partition,
    arch: str | Path | ArchConfig,
    calib: Source = None,
    progress: Progress = None,
    memory: MemoryTiming = FULL_RATE,
    states: States = None,
    hidden: int | str = 8,
    percentile: float = 100.0,
) -> dict:
    """Estimated cycles, roofline and limit of every layer, and the nodes on the host, before anything
    runs."""
    image = compile(model, arch, calib, progress, memory, states=states, hidden=hidden, percentile=percentile)
    return describe(image, image.cycles)


def run(
    model_or_image: str | Path | Image,
    inputs: Source,
    on: str = "machine",
    arch: str | Path | ArchConfig | None = None,
    calib: Source = None,
    progress: Progress = None,
    memory: MemoryTiming = FULL_RATE,
    port: str | None = None,
    states: States = None,
    hidden: int | str = 8,
    percentile: float = 100.0,
) -> RunResult:
    """One inference on a backend.

    Parameters
    ----------
    model_or_image : an `Image`, a .sysl file, or an ONNX file (which needs `arch` except on the reference)
    inputs         : an array per input of the model, of its own shape and type
    arch           : where it is None, that of the board in simulation
    memory         : external memory of the simulated core
    port           : of 'board', see `device_port.open_device`
    states, hidden, percentile : as for `compile`

    Raises
    ------
    ApiError, ArchError, CompileError, ImageError   One sentence naming the culprit.
    """
    _check_backends((on,))
    arrays = load_arrays(inputs, "inputs")
    if arrays is None:
        raise ApiError("run needs inputs: one array per input of the model")
    image = _as_image(model_or_image)
    if on == "reference":
        if image is not None:
            raise ApiError(
                "an image holds instructions, not the model: run the ONNX file on 'reference', or the "
                "image on 'machine'"
            )
        return run_reference(_imported(model_or_image, calib, progress, states, hidden, percentile), arrays)
    if image is None:
        arch = arch or simulated_arch(port)
        if arch is None:
            raise ApiError(
                "running a model needs an architecture: give --arch, or an image that was compiled for one"
            )
        image = compile(
            model_or_image, arch, calib, progress, states=states, hidden=hidden, percentile=percentile
        )
    elif arch is not None and load_arch(arch).digest() != image.arch.digest():
        raise ApiError(
            f"the image was compiled for {image.arch.name!r}, not for {load_arch(arch).name!r}: compile "
            f"the model again"
        )
    ports = image.inputs if image.host is None else image.host.inputs
    check_inputs(arrays, {port.name: (port.shape, port.dtype) for port in ports})
    _tell(progress, f"preparing {on}")
    with Session(on, image, memory=memory, port=port) as session:
        _tell(progress, f"running on {on}")
        return session.run(arrays)


def verify(
    model: str | Path | QGraph | Partition,
    arch: str | Path | ArchConfig,
    inputs: Source = None,
    on: Sequence[str] = DEFAULT_BACKENDS,
    calib: Source = None,
    seed: int = 0,
    locate: bool = True,
    progress: Progress = None,
    sources: dict[str, str] | None = None,
    waveform: str | Path | None = None,
    memory: MemoryTiming = FULL_RATE,
    port: str | None = None,
    states: States = None,
    hidden: int | str = 8,
    percentile: float = 100.0,
) -> VerifyResult:
    """Run one inference on every backend and compare every bit that the core gives with the reference.

    Where nodes follow on the host, the model's own outputs are compared too. Of a float model, signal to
    noise is measured on the calibration data.

    Parameters
    ----------
    on       : backends; the reference always runs, as the one to compare with
    seed     : of the random inputs that are drawn where `inputs` is None
    locate   : where something differs, search the first instruction and cycle that went wrong
    sources  : Verilog to run as 'rtl', and to synthesise for 'netlist', instead of the generated core, file
               name to text
    waveform : where RTL or netlist differ, write the cycles around the first wrong beat here (.vcd or .fst)
    memory   : external memory of the simulated core and of the estimates
    port     : of 'board', see `device_port.open_device`
    states, hidden, percentile : as for `compile`

    Raises
    ------
    ApiError, ArchError, CompileError, LinkDown   One sentence naming the culprit.
    """
    _check_backends(on)
    if waveform is not None and not {"rtl", "netlist"}.isdisjoint(on):
        _check_waveform(waveform)
    config = load_arch(arch)
    partition = _imported(model, calib, progress, states, hidden, percentile)
    graph = partition.graph
    arrays = load_arrays(inputs, "inputs")
    if arrays is None:
        arrays, used_seed = random_inputs(partition, seed), seed
    else:
        used_seed = None
    check_inputs(arrays, input_specs(partition))
    begin = time.perf_counter()
    image = compile(partition, config, progress=progress, memory=memory)
    compile_seconds = time.perf_counter() - begin
    _tell(progress, "running on reference")
    expected = run_reference(partition, arrays)
    backends = {"reference": BackendResult(seconds=expected.seconds)}
    host_seconds = dict(expected.host_seconds)
    differences: list[Difference] = []
    for name in BACKENDS[1:]:
        if name not in on:
            continue
        _tell(progress, f"preparing {name}")
        found: list[Difference]
        try:
            with Session(
                name, image, sources if name in ("rtl", "netlist") else None, memory, port
            ) as session:
                _tell(progress, f"running on {name}")
                result = session.run(arrays)
        except LinkDown:
            # Nothing is known of the board, so it cannot be called wrong.
            raise
        except _failures() as error:
            found, backends[name] = [Difference(backend=name, error=str(error))], BackendResult(seconds=0.0)
        else:
            backends[name] = BackendResult(
                seconds=result.seconds,
                cycles=result.cycles,
                load_cycles=result.load_cycles,
                layer_cycles=result.layer_cycles,
            )
            for segment, seconds in result.host_seconds.items():
                host_seconds[segment] = min(seconds, host_seconds[segment])
            found = _compare(name, expected.raw, result.raw)
            if not found and partition.host is not None:
                found = _compare_host(name, expected.outputs, result.outputs)
        if found and locate:
            _tell(progress, f"{name} differs: searching the first instruction")
            options = {}
            if name in ("rtl", "netlist"):
                core = core_sources(name, config, sources)
                options = {"sources": core, "waveform": waveform, "progress": progress, "memory": memory}
            entered = HostSegments(partition.host).enter(arrays)
            found = [_locate(found[0], graph, image, entered, **options), *found[1:]]
        differences += found
    if not differences and {"rtl", "netlist"} <= backends.keys():
        rtl, gates = (backends[name] for name in ("rtl", "netlist"))
        if (rtl.load_cycles, rtl.cycles) != (gates.load_cycles, gates.cycles):
            text = (
                f"takes {gates.load_cycles} + {gates.cycles} cycles, "
                f"and the RTL {rtl.load_cycles} + {rtl.cycles}"
            )
            differences.append(Difference(backend="netlist", error=text))
    return VerifyResult(
        snr_db=_fidelity(model, partition, calib, progress, states),
        model=graph.name,
        image=image,
        seed=used_seed,
        backends=backends,
        differences=tuple(differences),
        host_seconds=host_seconds,
        compile_seconds=compile_seconds,
    )


# -- the parts -----------------------------------------------------------------------------------------------
def _tell(progress: Progress, text: str) -> None:
    if progress is not None:
        progress(text)


def _existing(model: str | Path) -> Path:
    path = Path(model)
    if not path.is_file():
        raise ApiError(f"model {str(model)!r} does not exist: give the path of an ONNX file")
    return path


def _failures() -> tuple[type[Exception], ...]:
    """What a device at fault raises; the simulations', where they are loaded, are of those that break a
    bus."""
    loaded = (
        (sys.modules.get(f"systolith.sim.{module}"), name)
        for module, name in (("native", "ProtocolError"), ("board", "BoardError"))
    )
    return (DeviceError, *(getattr(module, name) for module, name in loaded if module is not None))


def _check_waveform(path: str | Path) -> None:
    from systolith.sim.native import Waveform

    Waveform(path)
    if not Path(path).parent.is_dir():
        raise ApiError(f"there is no directory for the waveform {str(path)!r}: create it")


def _check_backends(names: Sequence[str]) -> None:
    for name in names:
        if name not in BACKENDS:
            raise ApiError(f"there is no backend {name!r}; choose from {', '.join(BACKENDS)}")


def _imported(
    model: str | Path | QGraph | Partition,
    calib: Source,
    progress: Progress,
    states: States,
    hidden: int | str,
    percentile: float,
) -> Partition:
    """The model, imported where it is a file."""
    if not isinstance(model, QGraph | Partition):
        _tell(progress, f"importing {model}")
        model = import_model(model, calib, states, hidden, percentile, progress)
    return as_partition(model)


def _fidelity(
    model: str | Path | QGraph | Partition,
    partition: Partition,
    calib: Source,
    progress: Progress,
    states: States,
) -> dict[str, dict[str, float | None]]:
    """Signal to noise against the float model; nothing where there is none."""
    calibration = load_arrays(calib, "calibration data")
    if isinstance(model, QGraph | Partition) or calibration is None:
        return {}
    from systolith.compiler.importer import is_quantised, load_model
    from systolith.evidence.fidelity import signal_to_noise

    if is_quantised(load_model(_existing(model))):
        return {}
    _tell(progress, "comparing with the float model")
    return signal_to_noise(model, partition, calibration, states)


def _as_image(source: str | Path | Image) -> Image | None:
    """The image, if it is one or names a file that is not ONNX by its suffix."""
    if isinstance(source, Image):
        return source
    if isinstance(source, QGraph | Partition) or Path(source).suffix == ".onnx":
        return None
    if not Path(source).is_file():
        raise ImageError(
            f"{str(source)!r} does not exist: give an ONNX file or an image made by `systolith compile`"
        )
    return Image.load(source)


def _compare(backend: str, expected: Arrays, got: Arrays) -> list[Difference]:
    """One entry per output that is not equal bit for bit."""
    found = []
    for name, right in expected.items():
        if got[name].shape != right.shape:
            found.append(
                Difference(
                    backend=backend,
                    error=f"output {name!r} has shape {list(got[name].shape)}, expected {list(right.shape)}",
                )
            )
            continue
        wrong = np.argwhere(got[name] != right)
        if len(wrong):
            first = tuple(int(i) for i in wrong[0])
            found.append(
                Difference(
                    backend=backend,
                    output=name,
                    elements=len(wrong),
                    total=right.size,
                    index=first,
                    expected=int(right[first]),
                    got=int(got[name][first]),
                )
            )
    return found


def _compare_host(backend: str, expected: Arrays, got: Arrays) -> list[Difference]:
    """One entry per output of the model that differs though the core's results agree: the host is to
    blame."""
    return [
        Difference(
            backend=backend,
            error=f"output {name!r} differs although every result of the core agrees: a node on the host "
            f"gives "
            "different values each time",
        )
        for name, right in expected.items()
        if right.dtype != got[name].dtype
        or not np.array_equal(right, got[name], equal_nan=right.dtype.kind in "fc")
    ]


def _locate(difference: Difference, graph: QGraph, image: Image, arrays: Arrays, **options) -> Difference:
    """Add the place of the first thing that went wrong; `options` as of `locate_rtl`."""
    from systolith.evidence.locate import locate_machine, locate_rtl

    inputs = {name: quantise(np.asarray(arrays[name]), graph.tensors[name]) for name in graph.inputs}
    try:
        location = locate_rtl(graph, image, inputs, **options) if options else None
    except DeviceError as error:
        return replace(difference, note=str(error))
    note = ""
    if location is None:
        location = locate_machine(graph, image, inputs)
        if difference.backend == "board" and location is None:
            note = "the machine gives what the reference gives: run on rtl, which says where, or doctor"
        if options:
            core = "RTL" if difference.backend == "rtl" else difference.backend
            note = (
                f"the {core} writes what the machine writes, so the compiler is wrong"
                if location is not None
                else f"every beat that the {core} writes is right"
            )
    return replace(difference, location=location, note=note)

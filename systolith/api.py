"""The Python API: compile, run, verify, explain. A thin layer over compiler, reference, host and sim.

Every function takes a model as the path of an ONNX file, an architecture as a preset's name, a TOML file or
an `ArchConfig`, and calibration data as an .npz path or a mapping (per input, samples stacked on the first
axis).
`progress` is called with one line of text at each stage; ``None`` is silent.
"""

from __future__ import annotations

import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from systolith.host.device import Device, DeviceError
from systolith.host.driver import Driver, cycle_limit, dequantise, quantise
from systolith.reference.graph import QGraph
from systolith.spec.arch import ArchConfig, load_arch
from systolith.spec.image import Image, ImageError

__all__ = [
    "BACKENDS",
    "ApiError",
    "BackendResult",
    "Difference",
    "RunResult",
    "Session",
    "VerifyResult",
    "compile",
    "describe",
    "explain",
    "import_graph",
    "load_arrays",
    "random_inputs",
    "run",
    "run_reference",
    "verify",
]

if TYPE_CHECKING:
    from systolith.locate import Location

#: Where a program can run, in the order of the ladder.
BACKENDS = ("reference", "machine", "rtl")

Arrays = Mapping[str, np.ndarray]
Source = str | Path | Arrays | None
Progress = Callable[[str], None] | None


class ApiError(ValueError):
    """A refused input; the text is one sentence that names the culprit and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one inference gave.

    Parameters
    ----------
    outputs     : per output of the model, an array of its own shape and type
    raw         : the same as int8, as the core holds them
    cycles      : of the run stream; 0 on the reference, which has no clock
    load_cycles : of the load stream
    seconds     : wall time of the run stream
    """

    outputs: dict[str, np.ndarray]
    raw: dict[str, np.ndarray]
    cycles: int
    load_cycles: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendResult:
    """Cost of one backend in a verification; `cycles` is ``None`` for the reference."""

    seconds: float
    cycles: int | None = None
    load_cycles: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where a backend left the reference.

    Parameters
    ----------
    backend, output : which result differs
    elements, total : how many of its elements differ
    index           : the first of them
    expected, got   : its int8 values
    error           : what the device reported instead of a result
    location        : layer, instruction, cycle and beat of the first thing that went wrong, or None
    note            : what else is known of it
    """

    backend: str
    output: str = ""
    elements: int = 0
    total: int = 0
    index: tuple[int, ...] = ()
    expected: int = 0
    got: int = 0
    error: str | None = None
    location: Location | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.backend}: {self.error}"
        text = (
            f"{self.backend}: {self.elements} of {self.total} elements of output {self.output!r} differ; "
            f"first at "
            f"{list(self.index)}: expected {self.expected}, got {self.got}"
        )
        return text

    def as_dict(self) -> dict:
        """Plain values for JSON; `text` says it in a sentence."""
        return {
            "backend": self.backend,
            "text": str(self),
            "output": self.output,
            "elements": self.elements,
            "total": self.total,
            "index": list(self.index),
            "expected": self.expected,
            "got": self.got,
            "error": self.error,
            "location": self.location.as_dict() if self.location is not None else None,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """The answer of `verify`; `as_dict` is the JSON of the command line."""

    model: str
    image: Image
    seed: int | None
    backends: dict[str, BackendResult]
    differences: tuple[Difference, ...]
    host_nodes: tuple[str, ...] = ()

    @property
    def bit_exact(self) -> bool:
        """Whether every bit of every output agreed on every backend."""
        return not self.differences

    @property
    def cycles(self) -> int:
        """Cycles of the run stream: counted by RTL, else by the machine, else the compiler's estimate."""
        for name in ("rtl", "machine"):
            if name in self.backends and self.backends[name].cycles:
                return self.backends[name].cycles
        return self.image.cycles

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        load_cycles = next(
            (
                self.backends[name].load_cycles
                for name in ("rtl", "machine")
                if name in self.backends and self.backends[name].load_cycles
            ),
            0,
        )
        backends = {}
        for name, result in self.backends.items():
            backends[name] = {"seconds": round(result.seconds, 6)}
            if result.cycles is not None:
                backends[name]["cycles"] = result.cycles
            if name == "rtl" and result.cycles:
                backends[name]["cycles_per_second"] = round(result.cycles / max(result.seconds, 1e-9), 1)
        return {
            **describe(self.image, self.cycles),
            "bit_exact": self.bit_exact,
            "seed": self.seed,
            "backends": backends,
            "load_cycles": load_cycles,
            "host_nodes": list(self.host_nodes),
            "differences": [difference.as_dict() for difference in self.differences],
        }


def describe(image: Image, cycles: int) -> dict:
    """Size, roofline and layers of an image as plain values, and the utilisation that `cycles` gives."""
    macs = sum(layer.macs for layer in image.layers)
    peak = image.arch.macs_per_cycle
    return {
        "model": image.model,
        "arch": image.arch.name,
        "digest": image.digest.hex(),
        "cycles": cycles,
        "estimated_cycles": image.cycles,
        "macs": macs,
        "peak_macs_per_cycle": peak,
        "roofline_cycles": sum(layer.roofline_cycles for layer in image.layers),
        "utilisation": round(macs / (peak * cycles), 6) if cycles else 0.0,
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "macs": layer.macs,
                "cycles": layer.cycles,
                "roofline_cycles": layer.roofline_cycles,
                "limit": layer.limit,
                "nodes": list(layer.nodes),
            }
            for layer in image.layers
        ],
    }


# -- arrays --------------------------------------------------------------------------------------------------
def load_arrays(source: Source, what: str) -> dict[str, np.ndarray] | None:
    """A mapping as it is, or the contents of an .npz file.

    Raises
    ------
    ApiError   If the file cannot be read or is no .npz of plain arrays; `what` names its role.
    """
    if source is None:
        return None
    if isinstance(source, Mapping):
        return {name: np.asarray(value) for name, value in source.items()}
    try:
        # Opened here, because numpy leaves a file open that it cannot parse.
        with open(source, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ApiError(
                    f"{what} {str(source)!r} is a single array: "
                    "save it with numpy.savez, one array per input name"
                )
            return {name: file[name] for name in file.files}
    except ApiError:
        raise
    except OSError as error:
        raise ApiError(f"{what} {str(source)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ApiError(f"{what} {str(source)!r} is no .npz file of plain arrays: {error}") from error


def check_inputs(arrays: Arrays, specs: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Refuse missing, unknown, misshapen and mistyped inputs; `specs` holds (shape, dtype) by name.

    Raises
    ------
    ApiError   Naming the input.
    """
    for name in arrays:
        if name not in specs:
            raise ApiError(f"the model has no input {name!r}; its inputs are {', '.join(map(repr, specs))}")
    for name, (shape, dtype) in specs.items():
        if name not in arrays:
            raise ApiError(f"input {name!r} is missing: the model needs {', '.join(map(repr, specs))}")
        array = arrays[name]
        if tuple(array.shape) != tuple(shape):
            raise ApiError(f"input {name!r} has shape {list(array.shape)}, the model takes {list(shape)}")
        if array.dtype != np.dtype(dtype):
            raise ApiError(f"input {name!r} has type {array.dtype}, the model takes {dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ApiError(f"input {name!r} holds NaN or infinite values, which int8 cannot represent")


def random_inputs(graph: QGraph, seed: int) -> dict[str, np.ndarray]:
    """Seeded random inputs of the model's own types whose int8 values cover the whole range."""
    rng = np.random.default_rng(seed)
    return {
        name: dequantise(
            rng.integers(-128, 128, graph.tensors[name].shape, dtype=np.int8), graph.tensors[name]
        )
        for name in graph.inputs
    }


# -- the verbs -----------------------------------------------------------------------------------------------
def import_graph(model: str | Path, calib: Source = None) -> QGraph:
    """The quantised graph of an ONNX file.

    Raises
    ------
    ApiError       If the file does not exist.
    CompileError   If the model is refused; from the compiler, naming the node.
    """
    path = Path(model)
    if not path.is_file():
        raise ApiError(f"model {str(model)!r} does not exist: give the path of an ONNX file")
    from systolith.compiler.frontend import import_model

    return import_model(path, load_arrays(calib, "calibration data"))


def compile(
    model: str | Path | QGraph, arch: str | Path | ArchConfig, calib: Source = None, progress: Progress = None
) -> Image:
    """Compile a model for an architecture.

    Raises
    ------
    ApiError, ArchError, CompileError   One sentence naming the culprit.
    """
    config = load_arch(arch)
    if not isinstance(model, QGraph):
        _tell(progress, f"importing {model}")
        model = import_graph(model, calib)
    from systolith.compiler.driver import compile_graph

    _tell(progress, f"compiling {model.name} for {config.name}")
    return compile_graph(model, config)


def explain(
    model: str | Path | QGraph, arch: str | Path | ArchConfig, calib: Source = None, progress: Progress = None
) -> dict:
    """Estimated cycles, roofline and limit of every layer, as plain values, before anything runs."""
    image = compile(model, arch, calib, progress)
    return describe(image, image.cycles)


def run(
    model_or_image: str | Path | Image,
    inputs: Source,
    on: str = "machine",
    arch: str | Path | ArchConfig | None = None,
    calib: Source = None,
    progress: Progress = None,
) -> RunResult:
    """One inference on a backend.

    Parameters
    ----------
    model_or_image : an `Image`, a .sysl file, or an ONNX file (which needs `arch` except on the reference)
    inputs         : an array per input of the model, of its own shape and type

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
        return run_reference(import_graph(model_or_image, calib), arrays)
    if image is None:
        if arch is None:
            raise ApiError(
                "running a model needs an architecture: give --arch, or an image that was compiled for one"
            )
        image = compile(model_or_image, arch, calib, progress)
    elif arch is not None and load_arch(arch).digest() != image.arch.digest():
        raise ApiError(
            f"the image was compiled for {image.arch.name!r}, not for {load_arch(arch).name!r}: compile "
            f"the model again"
        )
    check_inputs(arrays, {tensor.name: (tensor.shape, tensor.dtype) for tensor in image.inputs})
    _tell(progress, f"preparing {on}")
    with Session(on, image) as session:
        _tell(progress, f"running on {on}")
        return session.run(arrays)


def verify(
    model: str | Path | QGraph,
    arch: str | Path | ArchConfig,
    inputs: Source = None,
    on: Sequence[str] = BACKENDS,
    calib: Source = None,
    seed: int = 0,
    locate: bool = True,
    progress: Progress = None,
    sources: dict[str, str] | None = None,
    waveform: str | Path | None = None,
) -> VerifyResult:
    """Run one inference on every backend and compare every bit of every output with the reference.

    Parameters
    ----------
    on       : backends; the reference always runs, as the one to compare with
    seed     : of the random inputs that are drawn where `inputs` is None
    locate   : where something differs, search the first instruction and cycle that went wrong
    sources  : Verilog to run as 'rtl' instead of the generated core, file name to text: an edited one, a netlist
    waveform : where the RTL differs, write the cycles around the first wrong beat here (.vcd or .fst)

    Raises
    ------
    ApiError, ArchError, CompileError   One sentence naming the culprit.
    """
    _check_backends(on)
    if waveform is not None and "rtl" in on:
        _check_waveform(waveform)
    config = load_arch(arch)
    if isinstance(model, QGraph):
        graph = model
    else:
        _tell(progress, f"importing {model}")
        graph = import_graph(model, calib)
    arrays = load_arrays(inputs, "inputs")
    if arrays is None:
        arrays, used_seed = random_inputs(graph, seed), seed
    else:
        used_seed = None
    check_inputs(
        arrays, {name: (graph.tensors[name].shape, graph.tensors[name].dtype) for name in graph.inputs}
    )
    image = compile(graph, config, progress=progress)
    _tell(progress, "running on reference")
    expected = run_reference(graph, arrays)
    backends = {"reference": BackendResult(seconds=expected.seconds)}
    differences: list[Difference] = []
    for name in BACKENDS[1:]:
        if name not in on:
            continue
        _tell(progress, f"preparing {name}")
        found: list[Difference]
        try:
            with Session(name, image, sources=sources if name == "rtl" else None) as session:
                _tell(progress, f"running on {name}")
                result = session.run(arrays)
        except _failures() as error:
            found, backends[name] = [Difference(backend=name, error=str(error))], BackendResult(seconds=0.0)
        else:
            backends[name] = BackendResult(
                seconds=result.seconds, cycles=result.cycles, load_cycles=result.load_cycles
            )
            found = _compare(name, expected.raw, result.raw)
        if found and locate:
            _tell(progress, f"{name} differs: searching the first instruction")
            options = {"sources": sources, "waveform": waveform, "progress": progress} if name == "rtl" else {}
            found = [_locate(found[0], graph, image, arrays, **options), *found[1:]]
        differences += found
    return VerifyResult(
        model=graph.name, image=image, seed=used_seed, backends=backends, differences=tuple(differences)
    )


# -- the parts -----------------------------------------------------------------------------------------------
def _tell(progress: Progress, text: str) -> None:
    if progress is not None:
        progress(text)


def _failures() -> tuple[type[Exception], ...]:
    """What a device at fault raises; the simulation's, where that is loaded, is one that breaks the bus."""
    native = sys.modules.get("systolith.sim.native")
    return (DeviceError, native.ProtocolError) if native is not None else (DeviceError,)


def _check_waveform(path: str | Path) -> None:
    from systolith.sim.native import Waveform

    Waveform(path)
    if not Path(path).parent.is_dir():
        raise ApiError(f"there is no directory for the waveform {str(path)!r}: create it")


def _check_backends(names: Sequence[str]) -> None:
    for name in names:
        if name not in BACKENDS:
            raise ApiError(f"there is no backend {name!r}; choose from {', '.join(BACKENDS)}")


def _as_image(source: str | Path | Image) -> Image | None:
    """The image, if it is one or names a file that is not ONNX by its suffix."""
    if isinstance(source, Image):
        return source
    if isinstance(source, QGraph) or Path(source).suffix == ".onnx":
        return None
    if not Path(source).is_file():
        raise ImageError(
            f"{str(source)!r} does not exist: give an ONNX file or an image made by `systolith compile`"
        )
    return Image.load(source)


def run_reference(graph: QGraph, arrays: Arrays) -> RunResult:
    """One inference of the quantised graph, in NumPy."""
    check_inputs(
        arrays, {name: (graph.tensors[name].shape, graph.tensors[name].dtype) for name in graph.inputs}
    )
    begin = time.perf_counter()
    values = graph.run(
        {name: quantise(np.asarray(arrays[name]), graph.tensors[name]) for name in graph.inputs}
    )
    seconds = time.perf_counter() - begin
    raw = {name: values[name] for name in graph.outputs}
    return RunResult(
        outputs={name: dequantise(raw[name], graph.tensors[name]) for name in raw},
        raw=raw,
        cycles=0,
        load_cycles=0,
        seconds=seconds,
    )


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


def _locate(difference: Difference, graph: QGraph, image: Image, arrays: Arrays, **options) -> Difference:
    """Add the place of the first thing that went wrong; `options` as of `locate_rtl`."""
    from systolith.locate import locate_machine, locate_rtl

    inputs = {name: quantise(np.asarray(arrays[name]), graph.tensors[name]) for name in graph.inputs}
    try:
        location = locate_rtl(graph, image, inputs, **options) if difference.backend == "rtl" else None
    except DeviceError as error:
        return replace(difference, note=str(error))
    note = ""
    if location is None:
        location = locate_machine(graph, image, inputs)
        if difference.backend == "rtl":
            note = (
                "the RTL writes what the machine writes, so the compiler is wrong"
                if location is not None
                else "every beat that the RTL writes is right"
            )
    return replace(difference, location=location, note=note)


class Session:
    """A device with an image loaded, for any number of inferences; closed at the end of a `with` block.

    Parameters
    ----------
    backend : 'machine', or 'rtl', which is built first where its model is not cached
    image   : what runs on it
    sources : Verilog to run instead of the generated core, file name to text; only on 'rtl'

    Members
    -------
    load_cycles : cycles of the load stream, which runs once, here

    Raises
    ------
    ApiError   If there is no such device.
    The device's own errors, where the load stream stops.
    """

    def __init__(self, backend: str, image: Image, sources: dict[str, str] | None = None) -> None:
        self.image = image
        self._device = _make_device(backend, image, sources)
        try:
            # The core that comes with this package stops by its watchdog; another one may not.
            limit = cycle_limit(image) if sources is not None else None
            self._driver = Driver(self._device, image, timeout_cycles=limit)
            self.load_cycles = self._driver.load_cycles
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the device."""
        close = getattr(self._device, "close", None)
        if close is not None:
            close()

    def run(self, arrays: Arrays) -> RunResult:
        """One inference: inputs, run stream, outputs."""
        self._driver.check(arrays)
        quantised = {io.name: quantise(np.asarray(arrays[io.name]), io) for io in self.image.inputs}
        begin = time.perf_counter()
        raw = self._driver.run_int8(quantised)
        seconds = time.perf_counter() - begin
        return RunResult(
            outputs={io.name: dequantise(raw[io.name], io) for io in self.image.outputs},
            raw=raw,
            cycles=self._driver.cycles,
            load_cycles=self.load_cycles,
            seconds=seconds,
        )


def _make_device(backend: str, image: Image, sources: dict[str, str] | None = None) -> Device:
    if backend == "machine":
        from systolith.reference.machine_device import MachineDevice

        # Program and data, each from a page of its own.
        return MachineDevice(image.arch, memory_bytes=len(image.program) + image.data_bytes + 4 * 4096)
    if backend == "rtl":
        from systolith.sim.native import RtlDevice

        return RtlDevice(image.arch, sources=sources)
    raise ApiError(f"{backend!r} is no device; choose from {', '.join(BACKENDS[1:])}")

"""Float models: calibration and ONNX Runtime's static quantiser, QDQ form."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibraterBase,
    CalibrationDataReader,
    MinMaxCalibrater,
    QDQQuantizer,
    QuantType,
)
from onnxruntime.quantization.calibrate import PercentileCalibrater
from onnxruntime.quantization.shape_inference import quant_pre_process

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import CompileError, InputError, QuantiseError, UnsupportedError
from systolith.compiler.base.proto import opset_of
from systolith.compiler.base.runtime import quiet, session, session_options
from systolith.compiler.importer import is_quantising, name_nodes
from systolith.compiler.ops import RULES
from systolith.compiler.ops.registry import rule_of, unsupported
from systolith.compiler.passes.batch_norm import batch_norm_to_conv
from systolith.compiler.passes.computed_bias import split_computed_bias
from systolith.compiler.recurrent import SEQUENCE, calibrate_recurrent, hidden_scales, observe_recurrent

__all__ = ["calibration_samples", "quantise_model", "segment_samples", "unsupported_nodes"]

#: Up to this opset a model is converted to opset 11 before it is calibrated.
_OLD_OPSET = 10
#: Not quantised on their own: they are folded, or carry no float tensor of their own.
_PLAIN = ("BatchNormalization", "Identity", "Dropout", "Cast", *SEQUENCE)


class _Silent(CalibraterBase):
    """A calibrater whose session logs nothing."""

    def create_inference_session(self) -> None:
        options = session_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.infer_session = session(self.augmented_model_path, options)


class _MinMax(_Silent, MinMaxCalibrater):
    pass


class _Percentile(_Silent, PercentileCalibrater):
    pass


class _Reader(CalibrationDataReader):
    def __init__(self, samples: list[dict[str, np.ndarray]]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._samples, None)


def calibration_samples(
    model: onnx.ModelProto, calibration: dict[str, np.ndarray] | None, without: Collection[str] = ()
) -> list[dict[str, np.ndarray]]:
    """One dict of inputs per sample; `without` are inputs that need no data.

    Raises
    ------
    InputError   Naming the input whose data is missing, of the wrong shape, or not finite.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [
        value for value in model.graph.input if value.name not in constants and value.name not in without
    ]
    if calibration is None:
        raise InputError(
            "quantise",
            "",
            "the model is in float and there is no calibration data",
            f"give samples for {', '.join(repr(value.name) for value in inputs)}, or a quantised model",
        )
    names = {value.name for value in inputs}
    for name in calibration:
        if name not in names:
            raise InputError(
                "quantise",
                name,
                "calibration data for an input that the model does not have",
                f"the model's inputs are {', '.join(sorted(names))}",
            )
    columns: dict[str, list[np.ndarray]] = {}
    for value in inputs:
        name, shape = value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if name not in calibration:
            raise InputError(
                "quantise",
                name,
                "there is no calibration data for this input",
                "add it to the calibration data",
            )
        data = np.asarray(calibration[name])
        if data.dtype.kind not in "fiu":
            raise InputError("quantise", name, f"calibration data has type {data.dtype}", "give numbers")
        if data.ndim == len(shape) + 1 and data.shape[1:] == shape and len(data):
            stacked = data
        elif (
            data.ndim == len(shape)
            and data.shape[1:] == shape[1:]
            and len(data)
            and len(data) % shape[0] == 0
        ):
            stacked = data.reshape(-1, *shape)
        else:
            raise InputError(
                "quantise",
                name,
                f"calibration data has shape {data.shape}, the input {shape}",
                "stack one or more samples on the first axis",
            )
        if not np.all(np.isfinite(data)):
            raise InputError(
                "quantise", name, "calibration data holds NaN or infinity", "remove those samples"
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        columns[name] = list(stacked.astype(dtype))
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            "quantise",
            "",
            f"calibration data has different numbers of samples: {counts}",
            "give as many for each input",
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def segment_samples(
    segment: onnx.ModelProto, inputs: list[str], outputs: list[str], samples: list[dict[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Each sample with the results of a segment that runs before the core added to it.

    Raises
    ------
    QuantiseError   If ONNX Runtime cannot run the segment on them.
    """
    given = [{name: sample[name] for name in inputs} for sample in samples]
    with told(
        QuantiseError,
        "quantise",
        "",
        "ONNX Runtime could not run the nodes before the core",
        "check that it runs the model on the calibration data",
    ):
        segment_session = session(segment)
        results = [segment_session.run(outputs, sample) for sample in given]
    return [
        {**sample, **dict(zip(outputs, result, strict=True))}
        for sample, result in zip(samples, results, strict=True)
    ]


def unsupported_nodes(model: onnx.ModelProto) -> list[UnsupportedError]:
    """A refusal for each node whose operator has no rule, unless it depends on constants alone."""
    arrays = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type in ("Constant", "Shape") or all(name in arrays for name in node.input if name):
            arrays.update(node.output)
        elif rule_of(node) is None and not is_quantising(node):
            found.append(unsupported(node))
    return found


def _check_operators(model: onnx.ModelProto) -> None:
    """Refuse what the import would refuse, before minutes of calibration."""
    for error in unsupported_nodes(model):
        raise error
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)) and array.size > 1:
            raise QuantiseError(
                "quantise", tensor.name, "the weights hold NaN or infinity", "train or export the model again"
            )


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the files that ONNX Runtime's quantiser reads and writes.

    Raises
    ------
    CompileError   If there is none that can be written.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="systolith-")
    except OSError as error:
        reason = f"no folder for temporary files can be written ({error.strerror or error})"
        raise CompileError("quantise", "", reason, "set TMPDIR to one that can") from error


def quantise_model(
    model: onnx.ModelProto, samples: list[dict[str, np.ndarray]], percentile: float = 100.0
) -> onnx.ModelProto:
    """The model in QDQ form: int8 activations, int8 weights per output channel.

    Parameters
    ----------
    samples    : one dict of inputs per sample
    percentile : of the values of each activation that its range covers; 100: all of them

    Raises
    ------
    QuantiseError   If ONNX Runtime does not run the model on the samples, or its quantiser fails.
    """
    _check_operators(model)
    model = batch_norm_to_conv(model)
    with _temporary_folder() as folder:
        prepared = _optimised(model, Path(folder))
        name_nodes(prepared)
        split_computed_bias(prepared)
        observed = observe_recurrent(prepared, samples)
        overrides = hidden_scales(prepared)
        with told(
            QuantiseError,
            "quantise",
            "",
            "ONNX Runtime could not calibrate the model",
            "check that ONNX Runtime runs it on the calibration data",
        ):
            quantised = _quantised(prepared, samples, percentile, overrides, Path(folder))
    calibrate_recurrent(quantised, observed)
    return quantised


def _optimised(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model after ONNX Runtime's basic optimisations, which fold constants, with its shapes inferred.

    It does what `onnxruntime.quantization.quant_pre_process` does, but in a session that is silent.
    """
    plain, optimised, result = (folder / f"{name}.onnx" for name in ("plain", "optimised", "inferred"))
    with (
        told(
            QuantiseError,
            "quantise",
            "",
            "ONNX Runtime could not load the model for calibration",
            "check that ONNX Runtime runs it",
        ),
        quiet(),
    ):
        onnx.save(model, plain)
        if opset_of(model) <= _OLD_OPSET:
            # Upsample becomes Resize, and the model is converted to opset 11; nothing else is done here.
            quant_pre_process(
                str(plain), str(plain), skip_optimization=True, skip_onnx_shape=True, skip_symbolic_shape=True
            )
        options = session_options()
        options.optimized_model_filepath = str(optimised)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session(str(plain), options)
        onnx.shape_inference.infer_shapes_path(str(optimised), str(result))
        return onnx.load(result)


def _quantised(
    model: onnx.ModelProto,
    samples: list[dict[str, np.ndarray]],
    percentile: float,
    overrides: dict[str, list[dict[str, object]]],
    folder: Path,
) -> onnx.ModelProto:
    """What ONNX Runtime's quantiser makes of the model; raises what it raises.

    It is `onnxruntime.quantization.quantize_static` in its parts, because that makes sessions that log.
    """
    path, result = folder / "prepared.onnx", folder / "quantised.onnx"
    kinds = [name for name in sorted(RULES) if name not in _PLAIN]
    with quiet():
        onnx.save(model, path)
        augmented = str(folder / "augmented.onnx")
        calibrater = (
            _MinMax(path, kinds, augmented)
            if percentile == 100
            else _Percentile(path, kinds, augmented, percentile=percentile, symmetric=True)
        )
        calibrater.augment_graph()
        calibrater.create_inference_session()
        calibrater.collect_data(_Reader(samples))
        quantiser = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=calibrater.compute_data(),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=kinds,
            extra_options={
                "ActivationSymmetric": False,
                "WeightSymmetric": True,
                "CalibPercentile": percentile,
                "TensorQuantOverrides": overrides,
            },
        )
        quantiser.quantize_model()
        quantiser.model.save_model_to_file(str(result), False)
        return onnx.load(result)

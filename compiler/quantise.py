"""Float models: calibration and ONNX Runtime's static quantiser, QDQ form."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from systolith.compiler.errors import CompileError, InputError, QuantiseError, UnsupportedError
from systolith.compiler.importer import is_quantising, name_nodes
from systolith.compiler.ops import RULES
from systolith.compiler.ops.registry import rule_of, unsupported
from systolith.compiler.passes.batch_norm import batch_norm_to_conv
from systolith.compiler.passes.computed_bias import split_computed_bias
from systolith.compiler.recurrent import SEQUENCE, calibrate_recurrent, hidden_scales, observe_recurrent

__all__ = ["calibration_samples", "quantise_model", "segment_samples", "unsupported_nodes"]

#: Not quantised on their own: they are folded, or carry no float tensor of their own.
_PLAIN = ("BatchNormalization", "Identity", "Dropout", "Cast", *SEQUENCE)


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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(segment.SerializeToString(), options, ["CPUExecutionProvider"])
        results = [session.run(outputs, {name: sample[name] for name in inputs}) for sample in samples]
    except Exception as error:
        raise QuantiseError(
            "quantise",
            "",
            "ONNX Runtime could not run the nodes before the core: " + " ".join(str(error).split())[:300],
            "check that it runs the model on the calibration data",
        ) from error
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
    """
    _check_operators(model)
    model = batch_norm_to_conv(model)
    # The quantiser's advice, and the sessions' remarks about what it leaves unused, are not for our users.
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    try:
        with _temporary_folder() as folder:
            plain, prepared, result = (
                Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "quantised")
            )
            onnx.save(model, plain)
            quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
            named = onnx.load(prepared)
            name_nodes(named)
            split_computed_bias(named)
            onnx.save(named, prepared)
            observed = observe_recurrent(named, samples)
            quantize_static(
                str(prepared),
                str(result),
                _Reader(samples),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax
                if percentile == 100
                else CalibrationMethod.Percentile,
                op_types_to_quantize=[name for name in sorted(RULES) if name not in _PLAIN],
                extra_options={
                    "ActivationSymmetric": False,
                    "WeightSymmetric": True,
                    "CalibPercentile": percentile,
                    "TensorQuantOverrides": hidden_scales(named),
                },
            )
            quantised = onnx.load(str(result))
            calibrate_recurrent(quantised, observed)
            return quantised
    except Exception as error:
        raise QuantiseError(
            "quantise",
            "",
            "ONNX Runtime could not calibrate the model: " + " ".join(str(error).split())[:300],
            "check that ONNX Runtime runs it on the calibration data",
        ) from error
    finally:
        logging.getLogger().setLevel(level)
        onnxruntime.set_default_logger_severity(2)

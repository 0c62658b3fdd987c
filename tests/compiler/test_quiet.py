"""ONNX Runtime and its tools write nothing to the user's terminal, and leave the loggers as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_SCRIPT = '''
import io, logging, os, sys
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.quant_utils import update_opset_version
from systolith.compiler.base.errors import CompileError
from systolith.compiler.base.runtime import quiet
from systolith.compiler.partition import partition_model
from systolith.evidence.layerwise import literal_session
from systolith.host.runner import Runner
from tests.fuzz.onnx_seeds import seeds

severity = int(sys.argv[1])
onnxruntime.set_default_logger_severity(severity)
root, tools = logging.getLogger(), logging.getLogger("onnxruntime.quantization.shape_inference")
root.setLevel(logging.INFO)
tools.setLevel(logging.DEBUG)

def state():
    return [
        (logger.level, logger.disabled, [*logger.handlers], [*logger.filters]) for logger in (root, tools)
    ] + [root.manager.disable, sys.stdout, np.geterr()]

def remarkable(model):
    """With a constant that nobody reads, of which ONNX Runtime remarks that it removes it."""
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "nobody_reads_it"))
    return model

before = state()
for seed in seeds():
    samples = dict(np.load(io.BytesIO(seed.calib))) if seed.calib else None
    for percentile in (100.0, 99.9) if seed.calib else (100.0,):
        model = remarkable(onnx.ModelProto.FromString(seed.model))
        Runner(partition_model(model, samples, percentile=percentile))
        literal_session(model)
        assert state() == before, seed.name
    if seed.name == "lstm":
        # What only ONNX Runtime refuses, which its tools report with a traceback.
        (r,) = (tensor for tensor in model.graph.initializer if tensor.name == "r")
        r.CopyFrom(numpy_helper.from_array(np.zeros((1, 16, 5), np.float32), "r"))
        try:
            partition_model(model, samples)
        except CompileError as error:
            assert "ONNX Runtime" in str(error)
        else:
            raise SystemExit("the model was accepted")
        assert state() == before

# A remark of the tools through the root logger, which has no handler yet.
old = onnx.ModelProto.FromString(seeds()[-1].model)
old.opset_import[0].version = 10
with quiet():
    update_opset_version(old, QuantType.QInt8)
assert state() == before
# What others log meanwhile is heard.
heard = []
handler = logging.Handler()
handler.emit = heard.append
root.addHandler(handler)
with quiet():
    update_opset_version(old, QuantType.QInt8)
    logging.warning("mine")
root.removeHandler(handler)
assert [record.getMessage() for record in heard] == ["mine"], heard
assert state() == before
print("silent")
sys.stdout.flush()
os.write(2, b"|")
# The default logger has the severity that the user gave it.
plain = remarkable(onnx.ModelProto.FromString(seeds()[-1].model))
onnxruntime.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
'''


@pytest.mark.parametrize("severity", [2, 3])
def test_nothing_is_written_and_loggers_stay_as_they_were(severity: int) -> None:
    command = [sys.executable, "-c", _SCRIPT, str(severity)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    written, _, after = result.stderr.partition("|")
    assert (result.returncode, result.stdout, written) == (0, "silent\n", ""), result.stderr
    assert ("[W:onnxruntime" in after) == (severity == 2), after

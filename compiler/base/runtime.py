"""ONNX Runtime, without a word to the user's terminal.

Every session is made here, with a logger of its own that is silent: failures come as exceptions, which say it
all. ONNX Runtime's default logger has no way to read its level, so nobody could put a former one back; it is
left alone.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

__all__ = ["quiet", "session", "session_options"]

_FATAL = 4
_PACKAGE = str(Path(onnxruntime.__file__).parent)


def session_options() -> onnxruntime.SessionOptions:
    """Options of a session that logs nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    return options


def session(
    model: onnx.ModelProto | bytes | str, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """A silent session on the CPU, of a model, its bytes or its path; raises what ONNX Runtime raises."""
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    return onnxruntime.InferenceSession(model, options or session_options(), ["CPUExecutionProvider"])


def _from_elsewhere(record: logging.LogRecord) -> bool:
    return not record.pathname.startswith(_PACKAGE)


@contextmanager
def quiet() -> Iterator[None]:
    """For calls of ONNX Runtime's Python tools: what they log and print is dropped, and nothing else.

    NumPy's remarks on their arithmetic are dropped too. The tools log through the root logger. It gets a
    filter that drops their records, and a handler that keeps `logging.warning` from installing one for good;
    both go again. No level is touched.
    """
    root = logging.getLogger()
    handler = logging.NullHandler()
    named = [
        logger
        for name, logger in logging.Logger.manager.loggerDict.items()
        if name.split(".")[0] == "onnxruntime" and isinstance(logger, logging.Logger)
    ]
    root.addFilter(_from_elsewhere)
    root.addHandler(handler)
    for logger in named:
        logger.addFilter(_from_elsewhere)
    try:
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in named:
            logger.removeFilter(_from_elsewhere)
        root.removeHandler(handler)
        root.removeFilter(_from_elsewhere)

"""The process that runs host steps in ONNX Runtime: `python -m systolith.host.step_worker FD`.

It says that it is ready, takes requests on a socket, see `step_process`, and ends with it. A host step may
come from a file that a stranger made, so it runs here in limited memory and time: RLIMIT_AS bounds what ONNX
Runtime allocates, and an alarm ends the process should its parent be gone.
"""

from __future__ import annotations

import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message

from systolith.host.sequences import Value, Values, flat
from systolith.host.step_wire import WireError, receive, send

__all__ = ["main"]

#: Domains of the operators that ONNX Runtime brings along.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_MOST_NODES = 1 << 16


class _Refused(Exception):
    """A host step that is not given to ONNX Runtime; the text is a clause."""


class _Server:
    """Sessions by key, and the memory that they may take."""

    def __init__(self) -> None:
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._sizes: dict[str, int] = {}
        self._base = _address_space()

    def answer(
        self, request: dict[str, Any], values: Values, model: bytes
    ) -> tuple[dict[str, Any], dict[str, Value]]:
        """Header and values of the answer."""
        for key in request["drop"]:
            self._sessions.pop(key, None)
            self._sizes.pop(key, None)
        key = request["key"]
        given = 4 * (
            sum(self._sizes.values()) + len(model) + sum(array.nbytes for array in flat(values).values())
        )
        self._limit(self._base + request["bytes"] + given)
        if request["do"] == "load":
            _check(model)
            self._sessions[key] = _session(model)
            self._sizes[key] = len(model)
            return self._ports(key), {}
        session = self._sessions[key]
        names = [output.name for output in session.get_outputs()]
        begin = time.perf_counter()
        results = session.run(names, dict(values))
        seconds = time.perf_counter() - begin
        found = dict(zip(names, results, strict=True))
        for name, result in found.items():
            parts = result if isinstance(result, list) else [result]
            if not all(isinstance(part, np.ndarray) for part in parts):
                raise _Refused(f"the output {name!r} is neither a tensor nor a sequence of tensors")
        return {"seconds": seconds}, found

    def _ports(self, key: str) -> dict[str, Any]:
        session = self._sessions[key]
        return {
            "inputs": [port.name for port in session.get_inputs()],
            "outputs": [port.name for port in session.get_outputs()],
        }

    @staticmethod
    def _limit(size: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            size = min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))

    @staticmethod
    def lift() -> None:
        """No limit until the next request, which says how much its own values take."""
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _address_space() -> int:
    """Bytes of this process's address space; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _messages(message: Message) -> Iterator[Message]:
    """A message and all that lie in it, however deep: subgraphs, functions, attributes."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from _messages(inner)


def _check(data: bytes) -> None:
    """Refuse what is no ONNX, tensors whose values lie in other files, and foreign operators."""
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise _Refused("they are no ONNX model") from error
    own = {function.domain for function in model.functions}
    nodes = 0
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (
            message.data_location == onnx.TensorProto.EXTERNAL or message.external_data
        ):
            raise _Refused(f"the values of tensor {message.name!r} lie in another file")
        if isinstance(message, onnx.NodeProto):
            nodes += 1
            if message.domain not in _DOMAINS and message.domain not in own:
                raise _Refused(f"operator {message.op_type!r} of domain {message.domain!r} is unknown")
    if nodes > _MOST_NODES:
        raise _Refused(f"they are {nodes} nodes, more than {_MOST_NODES}")


def _session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One thread and a fixed order: equal inputs give equal bits, run after run.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    # Failures come as exceptions, which say it all; the log would only repeat them.
    options.log_severity_level = 4
    # What was checked is ONNX; nothing else may be read out of the same bytes.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # QuantizeLinear and DequantizeLinear stay what ONNX says; kernels that take in both round differently.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])


def main() -> None:
    """Serve until the socket closes."""
    # Ctrl-C in a terminal reaches every process; the parent decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = socket.socket(fileno=int(sys.argv[1]))
    server = _Server()
    send(channel, {"ready": True}, {})
    while True:
        try:
            request, values, model = receive(channel)
        except WireError:
            return
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        results: dict[str, Value] = {}
        try:
            header, results = server.answer(request, values, model)
        except MemoryError:
            header = {"memory": True}
        # ONNX Runtime raises classes of its own, one for each status code, and what pybind11 makes of C++.
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            memory = "bad_alloc" in text or "allocate memory" in text or "bad allocation" in text
            header = {"memory": True} if memory else {"error": text, "refused": isinstance(error, _Refused)}
        try:
            send(channel, header, results)
        except MemoryError:
            send(channel, {"memory": True}, {})
        except WireError as error:
            send(channel, {"error": str(error), "refused": True}, {})
        signal.setitimer(signal.ITIMER_REAL, 0)
        server.lift()


if __name__ == "__main__":
    main()

"""A process of the fuzzer: runs one command after another in itself, in limited memory.

Requests come as lines of JSON on standard input, {folder, argv}; each is answered by one on standard output:
{status, peak, stdout, stderr}. A first line says that it is ready. What a command prints goes to files, the
descriptors included, so that libraries in C are heard too.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback

import onnxruntime

from systolith import api, cli
from systolith.compiler import driver, partition
from systolith.reference import machine_device

__all__ = ["main"]

_MOST_CHARACTERS = 20_000
#: Imported before the limit of memory is set, so that it counts what a case takes.
_LOADED = (api, driver, partition, machine_device, onnxruntime)


def _status(name: str) -> int:
    """Bytes of a field of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


def _misbehave(kind: str) -> None:
    """What the fuzzer must notice, for the test of the fuzzer itself."""
    if kind == "hang":
        time.sleep(3600)
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "raise":
        raise ValueError("raised on purpose")


def _run(argv: list[str]) -> int:
    """Exit status of a command; what the interpreter would do with an exception is done here."""
    if os.environ.get("SYSTOLITH_FUZZ_SELF_TEST"):
        _misbehave(argv[0])
    try:
        return cli.main(argv)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


def _captured(argv: list[str], folder: str) -> dict[str, object]:
    os.chdir(folder)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak of the resident size starts anew
    saved = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            status = _run(argv)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, copy in enumerate(saved, 1):
                os.dup2(copy, target)
                os.close(copy)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(4 * _MOST_CHARACTERS).decode(errors="replace")[:_MOST_CHARACTERS])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"status": status, "peak": max(_status("VmHWM"), children), "stdout": texts[0], "stderr": texts[1]}


def main() -> None:
    """Serve until standard input ends."""
    assert _LOADED
    limit = _status("VmSize") + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    # A command that reads its standard input must not take the requests.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # What is there before the first case need not be searched after each.
    gc.collect()
    gc.freeze()
    print("{}", file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        print(json.dumps(_captured(request["argv"], request["folder"])), file=answers, flush=True)
        gc.collect()


if __name__ == "__main__":
    main()

"""The record of a cache entry: its own name, and of each file size and digest, checked before use."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

__all__ = ["RECORD", "fault", "write_record"]

#: The file of an entry that says what the others are.
RECORD = "entry.json"
#: Records are small; anything larger is none.
_RECORD_BYTES = 1 << 20


def write_record(folder: Path, name: str) -> None:
    """Describe the files of a finished entry that will be called `name`."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.iterdir())
    }
    text = json.dumps({"name": name, "files": files}, indent=1)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def fault(folder: Path) -> str | None:
    """What keeps an entry from being used, or None where it is as it was made.

    Files that others than this user, or root, own or may change are not used: they are loaded as code.
    """
    trusted = (os.geteuid(), 0)
    try:
        for path in (folder, *folder.iterdir()):
            state = path.lstat()
            if state.st_uid not in trusted:
                return f"{path.name} belongs to another user"
            if path != folder and not stat.S_ISREG(state.st_mode):
                return f"{path.name} is no plain file"
            if state.st_mode & stat.S_IWOTH:
                return f"{path.name} can be written by everybody"
        if (folder / RECORD).stat().st_size > _RECORD_BYTES:
            return f"{RECORD} is no record"
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["name"] != folder.name:
            return f"it is the entry {record['name']!r}"
        files = record["files"]
        present = {path.name for path in folder.iterdir()} - {RECORD}
        if present != set(files):
            return f"its files are {sorted(present)}, not {sorted(files)}"
        for name, wanted in files.items():
            path = folder / name
            if path.stat().st_size != wanted["bytes"] or _digest(path) != wanted["sha256"]:
                return f"{name} is damaged"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{RECORD} is no record"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

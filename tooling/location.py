"""The cache's folder and limit, from the environment, and sentences for a disk that does not take a file."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from systolith.spec.errors import SystolithError

__all__ = [
    "CacheError",
    "cache_limit",
    "cache_root",
    "is_full",
    "is_writable",
    "tool_caches",
    "unwritable",
    "user_cache",
]

_DEFAULT_LIMIT = 2 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
#: Less than this is a full disk: tools that did not get it all written may have said nothing.
_LEAST_FREE = 1 << 18
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CacheError(SystolithError):
    """A cache that cannot be found, read or written."""


def user_cache() -> Path | None:
    """The user's folder for caches, which other programs use too; None where there is no home."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


def cache_root() -> Path:
    """The folder in which builds are kept: SYSTOLITH_CACHE, else `systolith` in the user's folder for caches.

    Raises
    ------
    CacheError   If there is neither.
    """
    if chosen := os.environ.get("SYSTOLITH_CACHE"):
        return Path(chosen).absolute()
    if (folder := user_cache()) is None:
        raise CacheError(
            "there is no home folder in which builds could be kept: set SYSTOLITH_CACHE to a folder that can "
            "be written"
        )
    return folder.absolute() / "systolith"


def cache_limit() -> int:
    """Bytes that the cache may hold: SYSTOLITH_CACHE_LIMIT, else 2 GiB.

    Raises
    ------
    CacheError   If the variable is no size.
    """
    text = os.environ.get("SYSTOLITH_CACHE_LIMIT", "").strip()
    if not text:
        return _DEFAULT_LIMIT
    match = re.fullmatch(r"(\d{1,15})\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise CacheError(
            f"SYSTOLITH_CACHE_LIMIT is {text!r}, which is no size: give bytes, or a number with K, M, G or "
            "T, as in 2G"
        )
    return int(match[1]) * _UNITS[match[2].upper()]


def is_full(folder: Path, least: int = _LEAST_FREE) -> bool:
    """Whether the disk of a folder has less than so many bytes left."""
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize < least


def is_writable(folder: Path) -> bool:
    """Whether a folder can be written, or made where it is missing."""
    for parent in (folder, *folder.parents):
        if parent.exists():
            return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    return False


def tool_caches(root: Path) -> dict[str, str]:
    """Environment that keeps the tools' own caches (wasmtime, YoWASP, ccache) in ours; empty where they can
    write to their usual places."""
    usual = user_cache()
    if usual is not None and is_writable(usual):
        return {}
    folder = root / "tools"
    given = {"YOWASP_CACHE_DIR": folder / "YoWASP", "CCACHE_DIR": folder / "ccache"}
    return {
        "XDG_CACHE_HOME": str(folder),
        **{name: os.environ.get(name) or str(path) for name, path in given.items()},
    }


def unwritable(root: Path, error: OSError) -> CacheError:
    """The error where a file or folder of the cache cannot be made."""
    if error.errno in _FULL:
        return CacheError(
            f"no space is left for builds in {str(root)!r}: free some, empty the cache with `systolith cache "
            "clear`, or set SYSTOLITH_CACHE to a folder on another disk"
        )
    return CacheError(
        f"cannot write to {str(root)!r}, where builds are kept: {error.strerror or error}; "
        "set SYSTOLITH_CACHE to a folder that can be written"
    )

"""The cache of builds: one folder an entry, named by a digest of all that the build reads.

An entry is made in a scratch folder and renamed, so that nobody sees half of it; its record is checked before
each use, and what does not hold is built again. Entries are locked (flock, on the record) while somebody uses
them; those used least recently go when the cache exceeds its limit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from systolith.tooling.contents import RECORD, fault, write_record
from systolith.tooling.location import CacheError, cache_limit, cache_root, unwritable

__all__ = ["Cache", "EntryInfo", "Maker", "digest"]

#: Builds in the folder it is given, and returns the files to keep: name in the entry -> path.
Maker = Callable[[Path], Mapping[str, Path]]
#: Seconds after which a scratch folder that nobody has locked is left over from a process that died.
_ABANDONED = 60
#: How often an entry is published while others publish or damage it.
_ATTEMPTS = 10
_log = logging.getLogger("systolith")
#: Locks of the entries that this process uses until it ends, by folder.
_held: dict[Path, int] = {}


def digest(*parts: object) -> str:
    """Names a build by the `repr` of all that it depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """An entry from outside: its folder, its bytes on disk, when it was last used (seconds since 1970)."""

    folder: Path
    size: int
    used: float


class Cache:
    """Builds kept from run to run.

    Parameters
    ----------
    root : Path   its folder; None: `cache_root()`

    Raises
    ------
    CacheError   see `cache_root`
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = cache_root() if root is None else Path(root).absolute()
        self._entries, self._scratch = self.root / "entries", self.root / "scratch"

    def keep(self, name: str, make: Maker) -> Path:
        """The folder of an entry, made where the cache has no good one; it stays until this process ends.

        Raises
        ------
        CacheError           If it has to be made, and the cache cannot be written.
        What `make` raises.
        """
        folder = self._entries / name
        if folder in _held and fault(folder) is None:
            return folder
        if (lock := _held.pop(folder, None)) is not None:
            os.close(lock)
        _held[folder] = self._lock(name, make)
        return folder

    @contextlib.contextmanager
    def entry(self, name: str, make: Maker) -> Iterator[Path]:
        """The folder of an entry as `keep` gives it, for the time of a `with` block."""
        lock = self._lock(name, make)
        try:
            yield self._entries / name
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """An empty folder on the cache's disk, removed at the end of a `with` block.

        Errors of the operating system in that block, a full disk above all, become errors of the cache.

        Raises
        ------
        CacheError   If the cache cannot be written, or its disk is full.
        """
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{name[:60]}-", dir=self._scratch))
            lock = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise unwritable(self.root, error) from error
        try:
            _flock(lock, fcntl.LOCK_SH)
            yield folder
        except OSError as error:
            raise unwritable(self.root, error) from error
        finally:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)

    def entries(self) -> list[EntryInfo]:
        """All entries, good or not, the least recently used first."""
        found = []
        for folder in _listed(self._entries):
            with contextlib.suppress(OSError):
                files = [path.lstat() for path in (folder, *folder.iterdir())]
                record = folder / RECORD
                used = record.stat().st_mtime if record.is_file() else 0.0
                found.append(EntryInfo(folder, sum(state.st_size for state in files), used))
        return sorted(found, key=lambda entry: (entry.used, entry.folder))

    def trim(self, limit: int | None = None) -> int:
        """Remove what processes that died left, and entries until the rest fits the limit; returns how many
        entries went. None: `cache_limit()`. What a process uses stays.

        Raises
        ------
        CacheError   see `cache_limit`
        """
        limit = cache_limit() if limit is None else limit
        self._sweep()
        found, removed = self.entries(), 0
        total = sum(entry.size for entry in found)
        for entry in found:
            if total <= limit:
                break
            if self._remove(entry.folder):
                total -= entry.size
                removed += 1
        return removed

    def clear(self) -> int:
        """Remove everything that no process uses; returns how many entries went."""
        shutil.rmtree(self.root / "tools", ignore_errors=True)
        return self.trim(-1)

    # -- locks and folders -----------------------------------------------------------------------------------
    def _lock(self, name: str, make: Maker) -> int:
        """Open and locked record of a good entry, made where there is none."""
        if name in ("", ".", "..") or "/" in name:
            raise ValueError(f"{name!r} names no entry")
        if (lock := self._good(name)) is not None:
            return lock
        with self.scratch(name) as work:
            made = self._made(name, make, work)
            # Another process may publish the same entry meanwhile, or a damaged one stands in the way.
            for _ in range(_ATTEMPTS):
                self._publish(made, self._entries / name)
                if (lock := self._good(name)) is not None:
                    break
                self._remove(self._entries / name, patient=False)
            else:
                raise CacheError(
                    f"cannot replace the damaged entry {str(self._entries / name)!r}: remove it, or set "
                    "SYSTOLITH_CACHE to another folder"
                )
        self.trim()
        return lock

    def _publish(self, made: Path, folder: Path) -> None:
        """Give a finished entry its name, where nothing has it."""
        try:
            self._entries.mkdir(exist_ok=True)
            os.rename(made, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT):
                raise unwritable(self.root, error) from error

    def _made(self, name: str, make: Maker, work: Path) -> Path:
        """A finished entry in a scratch folder."""
        made = work / "made-entry"
        files = make(work)
        made.mkdir()
        for file, path in files.items():
            os.replace(path, made / file)
            os.chmod(made / file, 0o755 if os.access(made / file, os.X_OK) else 0o644)
        write_record(made, name)
        os.chmod(made, 0o755)
        os.chmod(made / RECORD, 0o644)
        return made

    def _good(self, name: str) -> int | None:
        """Open and locked record of an entry that passes its check; None where there is none."""
        folder = self._entries / name
        while True:
            try:
                lock = os.open(folder / RECORD, os.O_RDONLY | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError:
                lock = -1
            if lock >= 0:
                _flock(lock, fcntl.LOCK_SH)
                # Whoever removed the entry before the lock was ours has renamed it.
                try:
                    here, there = os.fstat(lock), os.stat(folder / RECORD)
                except OSError:
                    os.close(lock)
                    return None
                if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
                    os.close(lock)
                    continue
            reason = fault(folder)
            if lock >= 0 and reason is None:
                # A read-only cache does not know what was used last.
                with contextlib.suppress(OSError):
                    os.utime(lock)
                return lock
            if lock >= 0:
                os.close(lock)
            _log.warning("systolith: the cache entry %s is not used: %s; it is built again", folder, reason)
            return None

    def _remove(self, folder: Path, *, patient: bool = True) -> bool:
        """Remove an entry that nobody uses, or, not `patient`, any: its users keep what they loaded."""
        lock = -1
        try:
            if patient:
                with contextlib.suppress(FileNotFoundError):
                    lock = os.open(folder / RECORD, os.O_RDONLY | os.O_NOFOLLOW)
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._scratch.mkdir(parents=True, exist_ok=True)
            gone = Path(tempfile.mkdtemp(prefix="removed-", dir=self._scratch))
            try:
                os.rename(folder, gone / "entry")
            finally:
                shutil.rmtree(gone, ignore_errors=True)
        except OSError:
            return False
        finally:
            if lock >= 0:
                os.close(lock)
        return True

    def _sweep(self) -> None:
        """Remove scratch folders of processes that died."""
        for folder in _listed(self._scratch):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime < _ABANDONED:
                    continue
                lock = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def _flock(lock: int, how: int) -> None:
    """Lock, where the file system can."""
    with contextlib.suppress(OSError):
        fcntl.flock(lock, how)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []

"""The cache of builds: whole entries only, checked before use, bounded, never taken from under a process."""

import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from systolith.tooling.cache import Cache, digest
from systolith.tooling.contents import RECORD
from systolith.tooling.location import CacheError, cache_limit, cache_root

TEXT = "a build\n" * 100


class Made:
    """Makes an entry of two files, and counts how often."""

    def __init__(self, text: str = TEXT) -> None:
        self.text, self.count = text, 0

    def __call__(self, work: Path) -> dict[str, Path]:
        self.count += 1
        (work / "one.txt").write_text(self.text)
        (work / "two.txt").write_text("two")
        return {"one.txt": work / "one.txt", "two.txt": work / "two.txt"}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def read(cache: Cache, name: str, make: Callable[[Path], dict[str, Path]]) -> str:
    """The first file of an entry."""
    with cache.entry(name, make) as folder:
        return (folder / "one.txt").read_text()


def names(cache: Cache) -> list[str]:
    return [entry.folder.name for entry in cache.entries()]


def test_an_entry_is_made_once_and_leaves_nothing_else(cache: Cache) -> None:
    make = Made()
    assert read(cache, "kind-a", make) == read(cache, "kind-a", make) == TEXT
    assert make.count == 1
    assert names(cache) == ["kind-a"]
    assert list((cache.root / "scratch").iterdir()) == []


def test_what_fails_leaves_nothing(cache: Cache) -> None:
    def fail(work: Path) -> dict[str, Path]:
        (work / "half.txt").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="^no$"):
        read(cache, "kind-a", fail)
    assert names(cache) == []
    assert list((cache.root / "scratch").iterdir()) == []


def _truncate(folder: Path) -> None:
    os.truncate(folder / "one.txt", 100)


def _flip(folder: Path) -> None:
    data = bytearray((folder / "one.txt").read_bytes())
    data[7] ^= 1
    (folder / "one.txt").write_bytes(data)


def _empty(folder: Path) -> None:
    (folder / "one.txt").write_bytes(b"")


def _missing(folder: Path) -> None:
    (folder / "two.txt").unlink()


def _more(folder: Path) -> None:
    (folder / "three.txt").write_text("three")


def _linked(folder: Path) -> None:
    outside = folder.parent.parent.parent / "two.txt"
    (folder / "two.txt").rename(outside)
    (folder / "two.txt").symlink_to(outside)


def _no_json(folder: Path) -> None:
    (folder / RECORD).write_bytes(b"\xff{")


def _wrong_json(folder: Path) -> None:
    (folder / RECORD).write_text("[[]]")


def _empty_record(folder: Path) -> None:
    (folder / RECORD).write_bytes(b"")


def _no_record(folder: Path) -> None:
    (folder / RECORD).unlink()


def _foreign(folder: Path) -> None:
    """A whole entry, but another one."""
    other = Cache(folder.parent.parent.parent / "other")
    with other.entry("kind-b", Made("something else")) as found:
        for path in found.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())


def _for_everybody(folder: Path) -> None:
    (folder / "one.txt").chmod(0o666)


@pytest.mark.parametrize(
    "damage",
    [
        *(_truncate, _flip, _empty, _missing, _more, _linked, _no_json, _wrong_json, _empty_record),
        *(_no_record, _foreign, _for_everybody),
    ],
)
def test_a_damaged_entry_is_made_again(
    cache: Cache, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    make = Made()
    with cache.entry("kind-a", make) as folder:
        pass
    damage(folder)
    with caplog.at_level(logging.WARNING, "systolith"):
        assert read(cache, "kind-a", make) == TEXT
    assert make.count == 2
    assert read(cache, "kind-a", make) == TEXT and make.count == 2, "the new entry is not good"
    if damage is not _no_record:
        assert damage is not _linked or "two.txt is no plain file" in caplog.text
        assert "kind-a is not used" in caplog.text and "built again" in caplog.text


def test_an_entry_of_another_user_is_not_used(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Made()
    with cache.entry("kind-a", make) as folder:
        pass
    if os.geteuid() == 0:
        os.chown(folder / "one.txt", 12345, -1)
        assert read(cache, "kind-a", make) == TEXT and make.count == 2
        assert (folder / "one.txt").stat().st_uid == 0
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(CacheError, match="cannot replace the damaged entry"):
            read(cache, "kind-a", make)


def test_many_at_once_get_one_good_entry(cache: Cache) -> None:
    def slow(work: Path) -> dict[str, Path]:
        time.sleep(0.05)
        return Made()(work)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: read(cache, "kind-a", slow), range(16))) == [TEXT] * 16
    assert names(cache) == ["kind-a"]


def test_what_was_used_least_recently_goes_first(cache: Cache) -> None:
    for age, name in enumerate(("kind-a", "kind-b", "kind-c")):
        read(cache, name, Made())
        os.utime(cache.root / "entries" / name / RECORD, (1000 + age, 1000 + age))
    size = cache.entries()[0].size
    # Reading makes the oldest one the newest.
    read(cache, "kind-a", Made())
    assert cache.trim(2 * size) == 1
    assert names(cache) == ["kind-c", "kind-a"]
    assert cache.trim(2 * size) == 0


def test_the_limit_holds_without_being_asked(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    read(cache, "kind-a", Made())
    monkeypatch.setenv("SYSTOLITH_CACHE_LIMIT", str(2 * cache.entries()[0].size))
    for name in ("kind-b", "kind-c", "kind-d"):
        read(cache, name, Made())
    assert len(names(cache)) == 2 and "kind-d" in names(cache)


_USER = """
import sys
from pathlib import Path
from systolith.tooling.cache import Cache
def never(work):
    raise AssertionError("the entry was not found")
print(Cache(sys.argv[1]).keep("kind-a", never), flush=True)
sys.stdin.read()
"""


def test_an_entry_stays_as_long_as_a_process_uses_it(cache: Cache) -> None:
    read(cache, "kind-a", Made())
    with subprocess.Popen(
        [sys.executable, "-c", _USER, cache.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline().strip().endswith("kind-a")
        assert cache.trim(0) == 0 and cache.clear() == 0
        assert names(cache) == ["kind-a"]
        user.communicate()
    assert cache.trim(0) == 1
    assert names(cache) == []


def test_a_kept_entry_that_is_damaged_meanwhile_is_made_again(cache: Cache) -> None:
    make = Made()
    folder = cache.keep("kind-a", make)
    assert cache.keep("kind-a", make) == folder and make.count == 1
    _truncate(folder)
    assert (cache.keep("kind-a", make) / "one.txt").read_text() == TEXT and make.count == 2


def test_scratch_of_a_dead_process_goes_and_that_of_a_living_one_stays(cache: Cache) -> None:
    with cache.scratch("alive") as alive:
        dead = cache.root / "scratch" / "dead"
        (dead / "obj").mkdir(parents=True)
        fresh = cache.root / "scratch" / "fresh"
        fresh.mkdir()
        for folder in (alive, dead):
            os.utime(folder, (1000, 1000))
        cache.trim()
        assert alive.is_dir() and fresh.is_dir() and not dead.exists()
    assert not alive.exists()


def test_a_cache_that_cannot_be_written_is_read(cache: Cache) -> None:
    read(cache, "kind-a", Made())
    # Root may write everywhere, but not below a file.
    (cache.root / "scratch").rmdir()
    (cache.root / "scratch").write_text("")
    assert read(cache, "kind-a", Made()) == TEXT
    with pytest.raises(
        CacheError, match=r"^cannot write to '.*cache'.*; set SYSTOLITH_CACHE to a folder that"
    ):
        read(cache, "kind-b", Made())


def test_a_folder_below_a_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="set SYSTOLITH_CACHE to a folder that can be written"):
        read(Cache(tmp_path / "file" / "cache"), "kind-a", Made())


def _limited(root: Path) -> str:
    """What a process says that may write files of 4 KiB only."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        read(Cache(root), "kind-a", Made("x" * 10_000))
    except CacheError as error:
        return str(error)
    return "nothing"


def test_a_full_disk_is_one_sentence(cache: Cache) -> None:
    code = f"from tests.tooling.test_cache import _limited, Path; print(_limited(Path({str(cache.root)!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no space is left for builds in ")
    assert "systolith cache clear" in done.stdout and done.stdout.count("\n") == 1
    assert names(cache) == [] and list((cache.root / "scratch").iterdir()) == []


def test_the_folder_and_the_limit_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SYSTOLITH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_root() == tmp_path / "x" / "systolith"
    monkeypatch.setenv("SYSTOLITH_CACHE", str(tmp_path / "s"))
    assert cache_root() == tmp_path / "s"
    monkeypatch.delenv("SYSTOLITH_CACHE_LIMIT", raising=False)
    assert cache_limit() == 2 << 30
    for text, bytes_ in (("100", 100), ("3k", 3 << 10), ("500 MB", 500 << 20), ("1GiB", 1 << 30)):
        monkeypatch.setenv("SYSTOLITH_CACHE_LIMIT", text)
        assert cache_limit() == bytes_
    for text in ("-1", "much", "1.5G", "9" * 30):
        monkeypatch.setenv("SYSTOLITH_CACHE_LIMIT", text)
        with pytest.raises(CacheError, match="SYSTOLITH_CACHE_LIMIT is .* which is no size"):
            cache_limit()


def test_without_a_home_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SYSTOLITH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(CacheError, match="^there is no home folder .*: set SYSTOLITH_CACHE"):
        cache_root()


def test_names_stay_inside_the_cache(cache: Cache) -> None:
    for name in ("", ".", "..", "../up", "a/b"):
        with pytest.raises(ValueError, match="names no entry"):
            cache.keep(name, Made())


def test_digests_differ_where_anything_does() -> None:
    assert digest("a", 1) == digest("a", 1)
    assert len({digest("a", 1), digest("a", "1"), digest("a1"), digest(("a", 1)), digest("a", 2)}) == 5

"""Files for the user: refused before the work, written aside, moved into place; what was there survives."""

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from systolith.spec.outputs import OutputError, aside, check_folder, check_outputs, discard, write, writing


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.json"
    path.write_bytes(b"what was there")
    path.chmod(0o640)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_with_its_permissions(old: Path) -> None:
    write(old, b"new")
    assert old.read_bytes() == b"new" and stat.S_IMODE(old.stat().st_mode) == 0o640
    assert names(old.parent) == ["old.json"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    write(tmp_path / "new", b"")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_stays_a_link(old: Path) -> None:
    link = old.parent / "link"
    link.symlink_to(old)
    write(link, b"new")
    assert link.is_symlink() and old.read_bytes() == b"new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_what_was_there_survives_a_failure(failure: type[BaseException], old: Path) -> None:
    with pytest.raises(failure), writing(old) as stream:
        stream.write(b"half of")
        raise failure
    assert old.read_bytes() == b"what was there"
    assert names(old.parent) == ["old.json"]


def test_what_was_there_survives_a_limit_of_the_size_of_files(old: Path) -> None:
    code = (
        "import resource, sys; from systolith.spec.outputs import write;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); write(sys.argv[1], bytes(100_000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(old)], capture_output=True, text=True, check=False)
    assert f"OutputError: cannot write {str(old)!r}: File too large" in done.stderr
    assert old.read_bytes() == b"what was there"
    assert names(old.parent) == ["old.json"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE) != (8192, 8192)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_a_full_device_is_one_sentence() -> None:
    with pytest.raises(OutputError, match="^cannot write '/dev/full': No space left on device$"):
        write("/dev/full", b"x")


def test_null_standard_output_and_pipes_are_written_directly(tmp_path: Path) -> None:
    write("/dev/null", b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    code = "from systolith.spec.outputs import write; print('first'); write('/dev/stdout', b'second\\n')"
    for target in (subprocess.PIPE, open(tmp_path / "out", "w+b")):
        done = subprocess.run([sys.executable, "-c", code], stdout=target, check=True)
        if target is not subprocess.PIPE:
            target.seek(0)
            assert target.read() == b"first\nsecond\n"
            target.close()
        else:
            assert done.stdout == b"first\nsecond\n"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    write(tmp_path / "pipe", b"through")
    assert reader.communicate()[0] == b"through"


def test_aside_keeps_the_suffix_and_discard_removes_it(tmp_path: Path) -> None:
    with aside(tmp_path / "w.fst") as part:
        assert part.suffix == ".fst" and part.parent == tmp_path
        part.write_bytes(b"signals")
    assert (tmp_path / "w.fst").read_bytes() == b"signals"
    with pytest.raises(OutputError), aside(tmp_path / "w.fst"):
        discard()
        assert names(tmp_path) == ["w.fst"]


def test_what_cannot_be_written_is_refused(tmp_path: Path, old: Path) -> None:
    (tmp_path / "folder").mkdir()
    for given, text in {
        "": "--json has an empty name",
        str(tmp_path / "folder"): "it is a folder",
        str(tmp_path / "absent" / "f"): "there is no folder .*absent.*create it",
        str(old / "f"): "Not a directory",
    }.items():
        with pytest.raises(OutputError, match=text):
            check_outputs({"--json": given})
    with pytest.raises(OutputError, match="--json would replace the input"):
        check_outputs({"--json": old}, inputs=(None, tmp_path / "folder" / ".." / "old.json"))
    with pytest.raises(OutputError, match="-o and --json are both"):
        check_outputs({"-o": tmp_path / "new", "--json": tmp_path / "folder" / ".." / "new"})
    check_outputs({"--json": old, "-o": tmp_path / "new", "--outputs": None, "other": "-"})
    check_outputs({"--json": "/dev/null", "-o": "/dev/null", "--outputs": "/dev/stdout"})
    assert names(tmp_path) == ["folder", "old.json"]


def test_what_is_read_only_is_refused(tmp_path: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is read-only to the superuser, as whom tests may run.
    monkeypatch.setattr(
        os, "access", lambda path, mode: str(path) not in (str(old), str(tmp_path / "sealed"))
    )
    (tmp_path / "sealed").mkdir()
    with pytest.raises(OutputError, match="old.json.*read-only"):
        check_outputs({"-o": old})
    with pytest.raises(OutputError, match="sealed' is read-only"):
        check_outputs({"-o": tmp_path / "sealed" / "new"})
    with pytest.raises(OutputError, match="sealed' is read-only"):
        check_folder("the dump", tmp_path / "sealed" / "deep" / "er")


def test_a_folder_may_be_missing_but_not_a_file(tmp_path: Path, old: Path) -> None:
    check_folder("the dump", tmp_path / "deep" / "er")
    check_folder("the dump", None)
    assert names(tmp_path) == ["old.json"]
    for path in (old, old / "deep"):
        with pytest.raises(OutputError, match="old.json' is no folder"):
            check_folder("the dump", path)

"""Files and folders are written whole or not at all, whatever interrupts the writer."""

import hashlib
import os
import signal
import subprocess
import sys
from errno import EACCES, EBUSY, ENOSPC, EPERM, EROFS
from pathlib import Path

import pytest

from connection_utils.bert import ConnectionBert
from connection_utils.ground.whole_files import (
    check_replaceable,
    clear_leftovers,
    only_writer,
    sha256_of,
    write_folder_whole,
    write_whole,
)

KILLED_IN_THE_BLOCK = """
import os, signal, sys
from connection_utils.ground.whole_files import write_folder_whole, write_whole
target, kind = sys.argv[1:]
block = write_whole(target) if kind == "file" else write_folder_whole(target, {"a.txt"})
with block as scratch:
    half = scratch if kind == "file" else scratch / "a.txt"
    half.write_text("half of the new con")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_in_the_block(target: Path, kind: str) -> int:
    return subprocess.run([sys.executable, "-c", KILLED_IN_THE_BLOCK, str(target), kind],
                          check=False).returncode


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sha256_of_is_the_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_of(path) == hashlib.sha256(b"abc").hexdigest()
    assert sha256_of(str(path)) == \
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_whole_makes_the_file_and_the_folders_above_it(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with write_whole(path) as scratch:
        assert scratch.parent == path.parent      # a rename stays on one file system
        assert not path.exists()
        scratch.write_text("new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_whole_keeps_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with write_whole(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def test_who_reads_the_old_file_meanwhile_reads_it_to_its_end(tmp_path):
    """The new file takes the old one's name; nothing is written into the old one."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    with open(path) as reader:
        with write_whole(path) as scratch:
            scratch.write_text("new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_write_whole_leaves_the_old_file_when_the_block_fails(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), write_whole(path) as scratch:
        scratch.write_text("half of the new con")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_write_whole_leaves_nothing_when_the_first_writing_fails(tmp_path):
    with pytest.raises(RuntimeError), write_whole(tmp_path / "file.txt") as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


def test_a_file_survives_a_kill_in_the_block(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    assert killed_in_the_block(path, "file") == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_file_can_be_written_after_a_kill(tmp_path):
    path = tmp_path / "file.txt"
    assert killed_in_the_block(path, "file") == -signal.SIGKILL
    assert not path.exists()
    with write_whole(path) as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"


def test_write_folder_whole_makes_the_folder_and_those_above_it(tmp_path):
    folder = tmp_path / "runs" / "model"
    with write_folder_whole(folder, ()) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "a.txt").write_text("a")
        assert not folder.exists()
    assert (folder / "inner" / "a.txt").read_text() == "a"
    assert names(folder.parent) == ["model"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_write_folder_whole_replaces_a_folder_of_ours_entirely(tmp_path):
    folder = tmp_path / "model"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("old")
    with write_folder_whole(folder, {"a.txt", "b"}) as scratch:
        (scratch / "a.txt").write_text("new")
        assert (folder / "a.txt").read_text() == "old"
    assert names(folder) == ["a.txt"]
    assert (folder / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["model"]


def test_write_folder_whole_takes_an_empty_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    with write_folder_whole(folder, ()) as scratch:
        (scratch / "a.txt").write_text("a")
    assert names(folder) == ["a.txt"]


def test_write_folder_whole_refuses_to_lose_foreign_files(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    (folder / "thesis.docx").write_text("dear")
    with pytest.raises(FileExistsError, match="thesis.docx") as raised, \
            write_folder_whole(folder, {"a.txt"}):
        pytest.fail("the block must not run")
    assert str(folder) in str(raised.value)
    assert "new or an empty folder" in str(raised.value)
    assert "a.txt" not in str(raised.value)
    assert names(folder) == ["a.txt", "thesis.docx"]
    assert (folder / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_write_folder_whole_refuses_a_file(tmp_path):
    path = tmp_path / "model"
    path.write_text("a file")
    with pytest.raises(FileExistsError, match="is a file"), write_folder_whole(path, ()):
        pytest.fail("the block must not run")
    assert path.read_text() == "a file"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_write_folder_whole_leaves_the_old_folder_when_the_block_fails(tmp_path, error):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    with pytest.raises(error), write_folder_whole(folder, {"a.txt"}) as scratch:
        (scratch / "a.txt").write_text("half")
        raise error
    assert (folder / "a.txt").read_text() == "old"
    assert names(folder) == ["a.txt"]
    assert names(tmp_path) == ["model"]


def test_a_folder_survives_a_kill_in_the_block(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    assert killed_in_the_block(folder, "folder") == -signal.SIGKILL
    assert (folder / "a.txt").read_text() == "old"
    assert names(folder) == ["a.txt"]


def test_write_folder_whole_on_a_linked_folder_leaves_no_debris_beside_it(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    (real / "a.txt").write_text("old")
    link.symlink_to(real)
    with write_folder_whole(link, {"a.txt"}) as scratch:
        (scratch / "a.txt").write_text("new")
    assert (link / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["link", "real"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one_there(tmp_path, monkeypatch):
    """On Windows an open file in the folder can make the second rename fail."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    rename = os.rename

    def fail_once(source, target):
        if str(source).endswith(".partial"):
            raise PermissionError("in use")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(PermissionError), write_folder_whole(folder, {"a.txt"}) as scratch:
        (scratch / "a.txt").write_text("new")
    assert (folder / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_what_a_file_manager_left_does_not_stand_in_the_way(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / ".DS_Store").write_text("")
    with write_folder_whole(folder, ()) as scratch:
        (scratch / "a.txt").write_text("new")
    assert names(folder) == ["a.txt"]


# A kill between the two renames of write_folder_whole

@pytest.fixture
def hidden(tmp_path):
    """The place of a folder that such a kill has left beside it."""
    old = tmp_path / ".[run].abc.old"                # a name that glob would read otherwise
    old.mkdir()
    (old / "a.txt").write_text("old")
    return tmp_path / "[run]"


@pytest.mark.parametrize("replaced", [True, False])
def test_clearing_up_returns_the_old_folder_unless_there_is_a_new_one(hidden, replaced):
    if replaced:
        hidden.mkdir()
        (hidden / "a.txt").write_text("new")
    clear_leftovers(hidden)
    assert names(hidden.parent) == ["[run]"]
    assert (hidden / "a.txt").read_text() == ("new" if replaced else "old")


@pytest.mark.parametrize("fails", [True, False])
def test_the_next_writer_leaves_one_whole_folder(hidden, fails):
    try:
        with write_folder_whole(hidden, ["a.txt"]) as scratch:
            (scratch / "a.txt").write_text("new")
            assert not fails or 1 / 0
    except ZeroDivisionError:
        pass
    assert names(hidden.parent) == ["[run]"]
    assert (hidden / "a.txt").read_text() == ("old" if fails else "new")


def test_a_link_to_a_folder_is_tidied_where_the_folder_is(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "model")
    left = tmp_path / "there" / ".model.0123.partial"
    left.mkdir()
    clear_leftovers(tmp_path / "link")
    assert not left.exists()


def test_a_check_changes_nothing_on_disk(hidden):
    ConnectionBert.check_output(hidden)
    check_replaceable(hidden, ())
    assert names(hidden.parent) == [".[run].abc.old"]


# What would only be found after the training

@pytest.mark.skipif(not os.path.ismount("/proc"), reason="wants a mount point")
def test_a_mount_point_is_refused_before_anything_is_written():
    with pytest.raises(OSError), write_folder_whole(Path("/proc"), os.listdir("/proc")):
        pytest.fail("the block must not run")
    with pytest.raises(FileExistsError, match="/proc is a mount point"):
        ConnectionBert.check_output("/proc")


def refusing(name, number):
    """Let the function `name` of os fail as the system would."""
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))
    return lambda patch: patch.setattr(os, name, fail)


CANNOT_BE_WRITTEN = {            # the place, what is wrong, the error, a word of its message
    "a file where a folder must be": ("file/run", None, NotADirectoryError, "file"),
    "a file further up": ("file/new/run", None, OSError, "file"),
    "a read-only folder": ("new/run", refusing("mkdir", EACCES), PermissionError, "denied"),
    "a read-only disk": ("run", refusing("mkdir", EROFS), OSError, "Read-only"),
    "a full disk": ("run", refusing("mkdir", ENOSPC), OSError, "No space"),
    "a volume inside a container": ("there", refusing("rename", EBUSY), OSError, "busy"),
    "somebody else's folder in /tmp": ("there", refusing("rename", EPERM), PermissionError,
                                       "not permitted"),
    "a name too long for its scratch": ("x" * 220, None, OSError, "too long"),
    "a Korean name too long for its scratch": ("\uac00" * 75, None, OSError, "too long"),
}


@pytest.mark.parametrize("case", CANNOT_BE_WRITTEN)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is(
        tmp_path, monkeypatch, case):
    name, spoil, kind, word = CANNOT_BE_WRITTEN[case]
    (tmp_path / "file").touch()
    (tmp_path / "there").mkdir()
    with monkeypatch.context() as patch:
        if spoil:
            spoil(patch)
        with pytest.raises(kind, match=word) as refused:
            ConnectionBert.check_output(tmp_path / name)
    assert f"{tmp_path / name} cannot be written" in str(refused.value)
    assert names(tmp_path) == ["file", "there"]


@pytest.mark.parametrize(("name", "there"), [
    ("run", "nothing"), ("new/folders/run", "nothing"), ("run", "an empty folder"),
    ("run", "a model"), ("\uac00" * 70, "nothing"), ("link", "a model")])
def test_a_check_leaves_all_as_it_was(tmp_path, name, there):
    place = tmp_path / ("run" if name == "link" else name)
    if there != "nothing":
        place.mkdir()
        if there == "a model":
            (place / "config.json").touch()
        if name == "link":
            (tmp_path / "link").symlink_to(place)
    before = [*tmp_path.rglob("*")], place.exists() and place.stat().st_ino
    check_replaceable(tmp_path / name, {"config.json"})
    assert ([*tmp_path.rglob("*")], place.exists() and place.stat().st_ino) == before


# Two processes

HOLD = """
import sys, time
from connection_utils.ground.whole_files import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["run", "scored.csv", "new/run", "\uac00" * 65])
def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path, name):
    first = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / name],
                             stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    try:
        with (pytest.raises(OSError, match="another process is writing"),
              only_writer(tmp_path / name)):
            pytest.fail("the block must not run")
        with only_writer(tmp_path / "another"):
            pass
    finally:
        first.kill()
        first.wait(30)
    with only_writer(tmp_path / name), only_writer(tmp_path / f"{name}2"):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("name", "word"), [
    ("file/scored.csv", "file"), ("x" * 215 + ".csv", "too long")])
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, name, word):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=word) as refused, only_writer(tmp_path / name):
        pytest.fail("the block must not run")
    assert "cannot be written" in str(refused.value) and names(tmp_path) == ["file"]


def test_leftovers_of_a_killed_writer_are_cleared_and_nothing_else(tmp_path):
    for kind in ("file", "folder"):
        assert killed_in_the_block(tmp_path / "run", kind) == -signal.SIGKILL
    (tmp_path / "run").mkdir()
    (tmp_path / ".runner.abc.partial").touch()       # of another target
    assert len(names(tmp_path)) == 4
    clear_leftovers(tmp_path / "run")
    assert names(tmp_path) == [".runner.abc.partial", "run"]

"""A file that is said to be written is on the disk, whole, and its checksum is that of what was meant."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from hookline import durable
from hookline.durable import (
    make_directory,
    name_aside,
    remove_leftovers,
    replace_file,
    sync_directory,
    write_new,
)


def refuse(error):
    def call(*args, **kwargs):
        raise error

    return call


@pytest.mark.parametrize("pieces", [[], [b""], [b"a", b"", b"bc"], [bytes(9_000_000), b"end"]])
def test_pieces_become_one_file_with_their_size_and_checksum(tmp_path, pieces):
    whole = b"".join(pieces)
    assert write_new(tmp_path / "f", pieces) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert (tmp_path / "f").read_bytes() == whole


def test_a_disk_that_takes_a_little_at_a_time_gets_all_of_it(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:7])))
    assert write_new(tmp_path / "f", [b"0123456789" * 5])[0] == 50
    assert (tmp_path / "f").read_bytes() == b"0123456789" * 5


def test_the_checksum_is_of_what_was_to_be_written(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(len(data))))
    assert write_new(tmp_path / "f", [b"data"])[1] == hashlib.sha256(b"data").hexdigest()
    assert (tmp_path / "f").read_bytes() == bytes(4)


@pytest.mark.parametrize(
    "make", [lambda path: path.touch(), lambda path: path.symlink_to("elsewhere"), lambda path: path.mkdir()]
)
def test_a_new_file_is_never_written_over_or_through_what_is_there(tmp_path, make):
    make(tmp_path / "f")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "f", [b"data"])
    assert os.listdir(tmp_path) == ["f"]


def test_a_new_file_follows_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_new(tmp_path / "f", [])
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_a_file_is_replaced_whole_and_nothing_is_left(tmp_path):
    for content in (b"old", b"new"):
        replace_file(tmp_path / "f", content)
        assert (tmp_path / "f").read_bytes() == content
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, operation):
    replace_file(tmp_path / "f", b"old")
    monkeypatch.setattr(os, operation, refuse(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_content_is_synced_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def noted(descriptor):
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append("directory" if os.path.isdir(target) else "file")
        assert target == str(tmp_path) or Path(target).read_bytes() == b"new"
        fsync(descriptor)

    def renamed(source, target):
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", renamed)
    replace_file(tmp_path / "f", b"new")
    assert events == ["file", "replace", "directory"]


def leftovers(folder, monkeypatch, *names):
    """Let a process be killed while it replaces each of these files; return what it leaves."""
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", refuse(KeyboardInterrupt))
        for name in names:
            with pytest.raises(KeyboardInterrupt):
                replace_file(folder / name, b"half")
    return sorted(os.listdir(folder))


def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    kept, left, odd = leftovers(tmp_path, monkeypatch, "status.json", "a\nb", "0123abcd-0123abcd")
    assert all(name.startswith(".tmp-") for name in (kept, left, odd))
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []
    remove_leftovers(tmp_path / "missing")


def test_of_one_file_nothing_else_is_removed(tmp_path, monkeypatch):
    left = leftovers(tmp_path, monkeypatch, "status.json", "status.json-0123abcd")
    remove_leftovers(tmp_path, "status.json")
    assert os.listdir(tmp_path) == [max(left, key=len)]


def test_nothing_is_removed_that_only_looks_like_it(tmp_path):
    (tmp_path / "precious").write_bytes(b"data")
    (tmp_path / ".tmp-a-01234567").symlink_to("precious")
    (tmp_path / ".tmp-b-01234567").mkdir()
    os.mkfifo(tmp_path / ".tmp-c-01234567")
    for name in (".tmp-d-0123456", ".tmp-d-0123456G", ".tmp-0123abcd", "tmp-d-0123abcd", ".tmp-d-0123abcd~"):
        (tmp_path / name).touch()
    before = sorted(os.listdir(tmp_path))
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_name_aside_is_one_that_nothing_has(tmp_path):
    path = tmp_path / "a.b.txt"
    assert name_aside(path, 3) == tmp_path / "a.b.orphaned-3.txt"
    name_aside(path, 3).symlink_to("missing")
    name_aside(path, 3).mkdir()
    assert name_aside(path, 3) == tmp_path / "a.b.orphaned-3-3.txt"


def test_every_new_directory_is_synced_into_its_parent(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path, tmp_path / "a"]
    make_directory(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_directory_that_another_process_makes_first_is_right(tmp_path, monkeypatch):
    real = os.mkdir

    def lost_race(path):
        real(path)
        real(path)

    monkeypatch.setattr(os, "mkdir", lost_race)
    make_directory(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        make_directory(tmp_path / "file")


def test_a_file_system_without_directory_sync_is_forgiven_and_an_error_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(OSError(errno.EINVAL, "Invalid argument")))
    sync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        sync_directory(tmp_path)

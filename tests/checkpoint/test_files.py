"""A replaced file is the old one or the new one, whole."""

import os

import pytest

from mpitile.checkpoint.files import replace_file, replace_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_made_with_its_folders(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    replace_text(path, "grüße\n")
    assert path.read_bytes() == "grüße\n".encode()
    assert names(path.parent) == ["a.txt"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("new")
        assert temporary.parent == tmp_path and temporary != path
        assert path.read_text() == "old"

    replace_file(path, write)
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bad"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failing_writer_changes_nothing(tmp_path, error, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        replace_file(path, write)
    assert names(tmp_path) == (["a.txt"] if before else [])
    assert not before or path.read_text() == before


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError):
        replace_file(path, lambda temporary: None)
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*arguments):
        raise OSError("input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="input/output"):
        replace_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_contents_are_forced_to_disk_before_the_name_changes(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: (done.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    replace_text(tmp_path / "a.txt", "new")
    assert [os.path.basename(entry) for entry in done[:2]][1] == "rename"
    assert done[0].endswith(".tmp") and done[2:] == [str(tmp_path)]


def test_names_of_new_folders_are_forced_to_disk(tmp_path, monkeypatch):
    forced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda file: (forced.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file))
    )
    replace_text(tmp_path / "deep" / "er" / "a.txt", "new")
    folders = [str(folder) for folder in (tmp_path, tmp_path / "deep", tmp_path / "deep" / "er")]
    assert [path for path in forced if path in folders] == folders

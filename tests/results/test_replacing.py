"""What takes the place of something else: how long it is tried, and what is an error at once."""

import errno
import os

import pytest

from mei_lightning.results.replacing import put_in_place, rename, replace


@pytest.fixture
def waits(monkeypatch):
    """The seconds of each wait, none of which is waited."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


def test_a_file_takes_the_place_of_another(tmp_path, waits):
    for name in ("new", "old"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    replace(tmp_path / "new", tmp_path / "old")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("old", "new")]
    assert waits == []


def test_a_directory_gets_a_name_that_nothing_has(tmp_path, waits):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name, encoding="utf-8")
    rename(tmp_path / "one", tmp_path / "third")
    with pytest.raises(OSError, match="third") as error:
        rename(tmp_path / "other", tmp_path / "third")
    assert error.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "third"]
    assert (tmp_path / "third" / "file").read_text(encoding="utf-8") == "one"
    assert waits == []


@pytest.mark.parametrize("move", [replace, rename])
def test_what_is_impossible_is_not_tried_again(tmp_path, waits, move):
    with pytest.raises(FileNotFoundError):
        move(tmp_path / "nothing", tmp_path / "place")
    assert waits == []


@pytest.mark.parametrize(("move", "name"), [(replace, "replace"), (rename, "rename")])
def test_it_is_tried_for_a_second_and_as_long_as_somebody_is_in_the_way(tmp_path, waits, monkeypatch, move, name):
    tries, move_at_once = [], getattr(os, name)

    def refused_at_first(source, target):
        tries.append((source, target))
        if len(tries) < succeeds_at:
            raise PermissionError(errno.EACCES, "in use")
        return move_at_once(source, target)

    monkeypatch.setattr(os, name, refused_at_first)
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    succeeds_at = 10**9
    with pytest.raises(PermissionError, match="in use"):
        move(tmp_path / "file", tmp_path / "place")
    assert set(tries) == {(tmp_path / "file", tmp_path / "place")}
    assert 0.9 < sum(waits) < 1.1
    assert len(tries) == len(waits) + 1
    # The last try counts as well.
    succeeds_at = len(tries)
    tries.clear()
    move(tmp_path / "file", tmp_path / "place")
    assert len(tries) == succeeds_at
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_put_in_place_is_there_alone(tmp_path, waits, kind, before):
    for name in ("new", "place") if before else ("new",):
        file = tmp_path / name
        if kind == "directory":
            file.mkdir()
            file /= f"of_{name}"
        file.write_text(name, encoding="utf-8")
    put_in_place(tmp_path / "new", tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file.read_text(encoding="utf-8") == "new"
    assert file.name == ("of_new" if kind == "directory" else "place")
    assert waits == []


def test_a_directory_is_put_in_place_though_a_reader_keeps_what_was_there(tmp_path, monkeypatch):
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name, encoding="utf-8")

    def refused(path, *_, **__):
        raise PermissionError(errno.EACCES, "in use", str(path))

    # As Windows refuses to remove what is open.
    monkeypatch.setattr(os, "unlink", refused)
    put_in_place(tmp_path / "new", tmp_path / "place")
    assert (tmp_path / "place" / "file").read_text(encoding="utf-8") == "new"
    # What is left is hidden from those who list the results.
    assert [path.name[0] for path in tmp_path.iterdir() if path.name != "place"] == ["."]

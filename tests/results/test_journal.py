"""Records in a folder: each is read once, in order, by whoever reads; a spoilt one is named and costs no other."""

import json
import os
import time
import warnings
from pathlib import Path

import pytest

from mei_lightning.results.journal import Journal


def read(journal):
    """The records that are new, without their times."""
    records = []
    journal.read(records.append)
    return [{name: value for name, value in record.items() if name != "time"} for record in records]


def test_each_reader_gets_each_record_once_and_in_order(tmp_path):
    writer, reader, late = Journal(tmp_path), Journal(tmp_path), Journal(tmp_path)
    assert read(reader) == []
    writer.append({"number": 3, "name": "ä"})
    assert read(reader) == [{"number": 3, "name": "ä"}]
    assert read(reader) == []
    for number in (2, 1):
        writer.append({"number": number})
    assert read(reader) == [{"number": 2}, {"number": 1}]
    assert [record["number"] for record in read(late)] == [3, 2, 1]
    assert [record["number"] for record in read(writer)] == [3, 2, 1]


def test_files_without_news_are_not_opened(tmp_path, monkeypatch):
    """A run of many processes leaves many, and on network file systems each takes time."""
    writer, reader = Journal(tmp_path), Journal(tmp_path)
    writer.append({"number": 0})
    assert read(reader) == [{"number": 0}]
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("opened"))
    assert read(reader) == []


def test_each_process_has_a_file_of_its_own(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.append({"number": 0})
    journal.append({"number": 1})
    assert len(list(tmp_path.iterdir())) == 1
    # As after a fork: the object is the same, the process is another.
    another = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: another)
    journal.append({"number": 2})
    Journal(tmp_path).append({"number": 3})
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 3
    assert all(name.endswith(".jsonl") for name in names)
    assert sorted(record["number"] for record in read(Journal(tmp_path))) == [0, 1, 2, 3]


def test_a_record_is_later_than_all_that_were_read_whatever_the_clock_says(tmp_path, monkeypatch):
    ahead, behind = Journal(tmp_path), Journal(tmp_path)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10**12)
    ahead.append({"number": 0})
    monkeypatch.setattr(time, "time_ns", lambda: now)
    behind.read(lambda record: None)
    for number in (1, 2):
        behind.append({"number": number})
    times = {}
    Journal(tmp_path).read(lambda record: times.update({record["number"]: record["time"]}))
    assert times[0] == now + 10**12
    assert times[0] < times[1] < times[2]
    monkeypatch.setattr(time, "time_ns", lambda: now + 10**13)
    behind.append({"number": 3})
    Journal(tmp_path).read(lambda record: times.update({record["number"]: record["time"]}))
    assert times[3] == now + 10**13


def test_a_time_is_of_the_record_and_not_of_who_wrote_it_first(tmp_path):
    """A record that is passed on, with its time, gets another one."""
    journal, records = Journal(tmp_path), []
    journal.append({"number": 0, "time": 5})
    journal.read(records.append)
    assert records[0]["time"] > 5


def test_a_record_in_the_making_is_waited_for_and_one_that_was_cut_costs_no_other(tmp_path):
    writer, reader = Journal(tmp_path), Journal(tmp_path)
    writer.append({"number": 0})
    (file,) = tmp_path.iterdir()
    with file.open("ab") as journal:
        journal.write(b'\n{"number": 1, "ti')
    assert read(reader) == [{"number": 0}]
    with file.open("ab") as journal:
        journal.write(b'me": 7}\n')
    assert read(reader) == [{"number": 1}]
    with file.open("ab") as journal:
        journal.write(b'\n{"number": 2, "ti')
    assert read(reader) == []
    writer.append({"number": 3})
    with pytest.warns(UserWarning, match=rf"A record in .*{file.name} cannot be read") as caught:
        assert read(reader) == [{"number": 3}]
    assert len(caught) == 1


def test_an_empty_folder_and_other_files_are_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("not a record\n", encoding="utf-8")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "blank.jsonl").write_bytes(b"\n\n\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(Journal(tmp_path)) == []


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("odd"), IndexError("odd"), TypeError("odd")])
def test_what_a_record_lacks_is_said_and_the_next_ones_are_read(tmp_path, error):
    journal, taken = Journal(tmp_path), []
    for number in range(3):
        journal.append({"number": number})

    def take_in(record):
        if record["number"] == 1:
            raise error
        taken.append(record["number"])

    with pytest.warns(UserWarning, match=r"cannot be read \('?odd'?\): its neuron counts as not written\."):
        journal.read(take_in)
    assert taken == [0, 2]


def test_a_fault_of_the_reader_is_no_unreadable_record(tmp_path):
    journal = Journal(tmp_path)
    journal.append({"number": 0})

    def take_in(record):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        journal.read(take_in)


def test_records_are_lines_that_any_program_reads(tmp_path):
    journal = Journal(tmp_path)
    for number in range(2):
        journal.append({"number": number, "status": "converged"})
    (file,) = tmp_path.iterdir()
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert [record["number"] for record in records] == [0, 1]
    assert all(record.keys() == {"number", "status", "time"} for record in records)

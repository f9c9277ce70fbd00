"""Several files as one unit: old or new at whatever point a writer ends, and never those of two runs."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from cfmtl_lib.errors import ResultsError
from cfmtl_lib.runtime import units
from cfmtl_lib.runtime.files import try_folder
from cfmtl_lib.runtime.provenance import load_results, save_results, save_together
from cfmtl_lib.runtime.units import JOURNAL

OLD = {"one": pd.DataFrame({"a": [1, 2]}), "two": pd.DataFrame({"b": ["x", "ä, y"]})}
NEW = {"one": pd.DataFrame({"a": [3]}), "two": pd.DataFrame({"b": ["z"]})}
FILES = ["one.csv", "one.json", "two.csv", "two.json"]

needs_locks = pytest.mark.skipif(units.fcntl is None, reason="a system without locks of files")


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read(folder):
    """Return the run of both tables, after a look at their rows."""
    runs = {}
    for name in OLD:
        table, record = load_results(folder, name)
        runs[name] = record["run"]
        pd.testing.assert_frame_equal(table, {"old": OLD, "new": NEW}[record["run"]][name])
    assert len(set(runs.values())) == 1
    return runs["one"]


@pytest.fixture
def folder(tmp_path):
    """Results of an earlier run."""
    save_results(OLD, tmp_path / "results", {"run": "old"})
    return tmp_path / "results"


def stop_at(monkeypatch, step, error):
    """Raise an error at one of the calls that change the disk, in their order."""
    calls = []
    for owner, name in ((Path, "write_text"), (Path, "write_bytes"), (os, "replace"), (Path, "unlink")):
        real = getattr(owner, name)

        def stopped(*arguments, real=real, name=name, **options):
            calls.append(name)
            if len(calls) > step:
                raise error
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, stopped)
    return calls


class Killed(BaseException):
    """Ends a writer like a kill: every later change of the disk fails too."""


STEPS = 4 + 1 + 1 + 1 + 4 + 1  # four files, the journal: written, renamed, tidied; four renames, its end


def test_the_steps_of_a_write_are_counted(folder, monkeypatch):
    calls = stop_at(monkeypatch, 99, Killed)
    save_results(NEW, folder, {"run": "new"})
    assert len(calls) == STEPS
    assert read(folder) == "new" and sorted(content(folder)) == FILES


@needs_locks
@pytest.mark.parametrize("step", range(STEPS))
def test_a_writer_that_is_killed_leaves_old_or_new_files_and_the_next_tidies_up(step, folder, monkeypatch):
    stop_at(monkeypatch, step, Killed)
    with pytest.raises(Killed):
        save_results(NEW, folder, {"run": "new"})
    monkeypatch.undo()
    committed = step > 5  # the rename of the journal
    assert read(folder) == ("new" if committed else "old")
    save_results(OLD, folder, {"run": "old"})
    assert read(folder) == "old" and sorted(content(folder)) == FILES


@pytest.mark.parametrize("step", range(STEPS))
def test_a_full_disk_is_told_with_what_readers_see(step, folder, monkeypatch):
    stop_at(monkeypatch, step, OSError(28, "No space left on device"))
    state, run = ("new files are read", "new") if step > 5 else ("old files are unchanged", "old")
    with pytest.raises(ResultsError, match=f"No space left.*{state}"):
        save_results(NEW, folder, {"run": "new"})
    monkeypatch.undo()
    assert read(folder) == run


WRITER = """
import json, os, sys
from cfmtl_lib.runtime.units import write_unit
step, folder = int(sys.argv[1]), sys.argv[2]
contents = json.load(sys.stdin)
calls = []
def killing(event, arguments):
    if event in ("open", "os.rename", "os.remove") and folder + os.sep in str(arguments[0]):
        calls.append(event)
        if len(calls) > step:
            os.kill(os.getpid(), 9)
sys.addaudithook(killing)
write_unit(folder, contents)
print(len(calls))
"""


@needs_locks
def test_kill_9_in_another_process(folder, tmp_path):
    """A real end of the process, at some of the events of the system; the last run is not killed."""
    save_results(NEW, tmp_path / "new", {"run": "new"})
    contents = {name: text.decode() for name, text in content(tmp_path / "new").items()}
    states = []
    for step in (4, 12, 13, 17, 99):
        save_results(OLD, folder, {"run": "old"})
        done = subprocess.run(
            [sys.executable, "-c", WRITER, str(step), str(folder)],
            input=json.dumps(contents),
            capture_output=True,
            text=True,
        )
        killed = done.returncode == -signal.SIGKILL
        assert killed or done.returncode == 0, done.stderr
        states.append((killed, read(folder)))
    assert states == [*[(True, "old")] * 2, *[(True, "new")] * 2, (False, "new")], done.stdout
    assert sorted(content(folder)) == FILES


@needs_locks
def test_two_writers_and_a_reader_at_once_do_not_mix(folder):
    seen, failures = set(), []

    def write(tables, run):
        try:
            for _ in range(15):
                save_results(tables, folder, {"run": run})
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=pair) for pair in ((OLD, "old"), (NEW, "new"))]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for name in OLD:
            table, record = load_results(folder, name)
            pd.testing.assert_frame_equal(table, {"old": OLD, "new": NEW}[record["run"]][name])
            seen.add(record["run"])
    assert not failures and seen <= {"old", "new"}
    read(folder)
    assert sorted(content(folder)) == FILES


@needs_locks
def test_a_writer_waits_for_another_but_not_forever(folder, monkeypatch):
    monkeypatch.setattr(units, "LONGEST_WAIT", 0.05)
    with units._locked(folder, shared=False):
        with pytest.raises(ResultsError, match="no other process writes to, found one that has been in use"):
            save_results(NEW, folder, {"run": "new"})
        with pytest.raises(ResultsError, match="Wait for the other run"):
            load_results(folder, "one")
    assert read(folder) == "old"


def test_tables_of_two_runs_are_refused(folder, tmp_path):
    save_results({"one": NEW["one"]}, folder, {"run": "new"})
    pd.testing.assert_frame_equal(load_results(folder, "one")[0], NEW["one"])  # a run of this table alone
    with pytest.raises(
        ResultsError, match=r"results two: expected one.csv of the same run, old, found that of"
    ):
        load_results(folder, "two")


def test_files_from_before_runs_had_names_load(folder):
    for name in OLD:
        path = folder / f"{name}.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        del record["run"], record["tables_of_run"]
        path.write_text(json.dumps(record), encoding="utf-8")
        pd.testing.assert_frame_equal(load_results(folder, name)[0], OLD[name])
    save_results({"one": NEW["one"]}, folder, {"run": "new"})
    load_results(folder, "two")


def test_tables_of_two_records_are_one_run(tmp_path):
    save_together(
        [({"one": OLD["one"]}, {"run": "a", "n": 1}), ({"two": OLD["two"]}, {"run": "b"})], tmp_path
    )
    one, two = (load_results(tmp_path, name)[1] for name in OLD)
    assert one["run"] == two["run"] == "a" and one["tables_of_run"] == two["tables_of_run"] == ["one", "two"]
    assert one["n"] == 1 and "n" not in two


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"one.csv": "../x"}', '{"../one.csv": ".one.csv.0123456789abcdef.new"}', '{"one.csv": 1}'],
)
def test_a_journal_that_no_writer_wrote_moves_no_file(text, folder):
    before = content(folder)
    (folder / JOURNAL).write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError, match=r"\.commit\.json: expected the journal"):
        load_results(folder, "one")
    (folder / JOURNAL).unlink()
    assert content(folder) == before


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_damaged_provenance_is_told(text, folder):
    (folder / "one.json").write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError, match=r"one\.json: expected provenance as JSON"):
        load_results(folder, "one")


@pytest.mark.parametrize("step", range(4))
def test_ctrl_c_during_the_renames_is_held_back_and_delivered_after(step, folder, monkeypatch):
    calls, real = [], os.replace

    def interrupted(source, target):
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        calls.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            save_results(NEW, folder, {"run": "new"})
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 5
    assert sorted(content(folder)) == FILES and read(folder) == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_table_that_is_no_csv_leaves_the_old_files(error, folder, monkeypatch):
    before, calls, real = content(folder), [], pd.DataFrame.to_csv

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) > 1:
            raise error
        return real(self, *arguments, **options)

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    with pytest.raises(error):
        save_results(NEW, folder, {})
    assert content(folder) == before


@needs_locks
def test_files_of_killed_writers_are_swept_and_those_of_living_ones_are_not(tmp_path):
    from cfmtl_lib.runtime.files import replacing, write_whole

    (tmp_path / ".table.csv.ab12cd34.part").write_text("half", encoding="utf-8")
    (tmp_path / ".mine.part").write_text("kept", encoding="utf-8")
    with replacing(tmp_path / "slow.csv") as temporary:
        temporary.write_text("whole", encoding="utf-8")
        write_whole(tmp_path / "other.csv", "x")
        assert not (tmp_path / ".table.csv.ab12cd34.part").exists() and temporary.exists()
    assert {name: text.decode() for name, text in content(tmp_path).items()} == {
        ".mine.part": "kept",
        "other.csv": "x",
        "slow.csv": "whole",
    }


def test_folders_are_tried_and_left_as_they_were(tmp_path):
    try_folder(None)
    try_folder(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResultsError, match=r"can be written to.*, found a file, .*file\. Name another"):
            try_folder(folder)


@pytest.mark.parametrize("code", [28, 13, 30])
def test_a_full_or_protected_folder_is_found_by_trying(code, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(ResultsError, match=f"{os.strerror(code)}. Name another folder, or make room"):
        try_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_folder_ends_with_the_block(folder):
    for _ in range(3):  # a lock that stayed would be waited for, and refused
        with units._locked(folder, shared=False):
            pass
        read(folder)

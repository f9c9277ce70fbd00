"""Published numbers as files: round trips, provenance, and what is left when something goes wrong."""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import threading
from pathlib import Path

import pandas as pd
import pytest

from cfmtl_lib.errors import ResultsError
from cfmtl_lib.runtime import provenance
from cfmtl_lib.runtime.provenance import VERSIONED, RunRecord, load_results, save_results

OLD = {"one": pd.DataFrame({"a": [1, 2], "b": [0.5, -1.25]}), "two": pd.DataFrame({"c": ["x", "ä, y"]})}
NEW = {"one": pd.DataFrame({"a": [3], "b": [0.1]}), "two": pd.DataFrame({"c": ["z"]})}
FILES = ["one.csv", "one.json", "two.csv", "two.json"]


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def assert_readable(folder, tables):
    for name, table in tables.items():
        pd.testing.assert_frame_equal(load_results(folder, name)[0], table)


@pytest.fixture
def folder(tmp_path):
    """Results of an earlier run."""
    save_results(OLD, tmp_path / "results", {"command": "old"})
    return tmp_path / "results"


def test_round_trip(tmp_path):
    folder = tmp_path / "new" / "folder"
    written = save_results(OLD, folder, {"run": "r" * 16, "command": "make x", "seeds": [0, 1]})
    assert written == [folder / name for name in FILES]
    assert [path.name for path in sorted(folder.iterdir())] == FILES
    for name, table in OLD.items():
        found, record = load_results(folder, name)
        pd.testing.assert_frame_equal(found, table)
        csv = (folder / f"{name}.csv").read_bytes()
        assert record == {
            "table": f"{name}.csv",
            "sha256": hashlib.sha256(csv).hexdigest(),
            "rows": len(table),
            "run": "r" * 16,
            "tables_of_run": ["one", "two"],
            "command": "make x",
            "seeds": [0, 1],
        }
        assert b"\r" not in csv
    assert load_results(str(folder), "one")[1]["rows"] == 2


def test_new_results_replace_old_ones(folder):
    save_results(NEW, folder, {"command": "new"})
    assert_readable(folder, NEW)
    assert load_results(folder, "one")[1]["command"] == "new"
    assert sorted(content(folder)) == FILES


def test_numbers_survive_to_the_last_bit(tmp_path):
    table = pd.DataFrame({"v": [0.1 + 0.2, 1 / 3, 1e-300, 123456789.123456789]})
    save_results({"v": table}, tmp_path, {})
    lines = (tmp_path / "v.csv").read_text(encoding="utf-8").split()
    assert [float(line) for line in lines[1:]] == table["v"].tolist()


def test_record_says_where_numbers_come_from():
    record = RunRecord("make x", range(3)).finish("f" * 64, device="cpu")
    assert list(record) == [
        "run",
        "command",
        "seeds",
        "commit",
        "commit_is_clean",
        "data_fingerprint",
        "wall_seconds",
        "written",
        "engines",
        "versions",
        "machine",
        "device",
    ]
    assert (record["command"], record["seeds"], record["device"]) == ("make x", [0, 1, 2], "cpu")
    assert record["data_fingerprint"] == "f" * 64
    assert re.fullmatch("[0-9a-f]{16}", record["run"]) and record["engines"] == ["none"]
    assert record["wall_seconds"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["written"])
    assert record["versions"].keys() == {"python", *VERSIONED, "numba"}
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert record["machine"].keys() == {"system", "architecture", "processor", "cores", "memory_gib"}
    assert record["machine"]["cores"] == os.cpu_count() and record["machine"]["memory_gib"] > 0
    assert json.loads(json.dumps(record)) == record


def test_wall_time_runs_from_start_to_end(monkeypatch):
    clock = iter([100.0, 112.34])
    monkeypatch.setattr(provenance.time, "perf_counter", lambda: next(clock))
    assert RunRecord("x", [0]).finish("")["wall_seconds"] == 12.3


@pytest.mark.parametrize("name", ["one.csv", "one.json"])
def test_missing_file_is_named_with_advice(name, folder):
    (folder / name).unlink()
    with pytest.raises(ResultsError, match=rf"results one: .*{re.escape(name)}, found no such file\. Run"):
        load_results(folder, "one")


def test_edited_numbers_are_refused_with_advice(folder):
    path = folder / "one.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.6"), encoding="utf-8")
    with pytest.raises(ResultsError, match=r"expected SHA-256 \w{64}, as one\.json says.*was edited.*again"):
        load_results(folder, "one")
    pd.testing.assert_frame_equal(load_results(folder, "two")[0], OLD["two"])


def test_numbers_of_another_run_are_refused(folder, tmp_path):
    save_results(NEW, tmp_path / "other", {})
    (folder / "one.csv").write_bytes((tmp_path / "other" / "one.csv").read_bytes())
    with pytest.raises(ResultsError, match="another run"):
        load_results(folder, "one")


def test_other_threads_can_save_too(tmp_path):
    failures = []

    def save():
        try:
            save_results(OLD, tmp_path, {})
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    assert not failures
    assert_readable(tmp_path, OLD)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout with one commit, taken for that of the project; and a way to run git in it."""
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)
    for scope in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{scope}", os.devnull)

    def git(*words):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()

    for name in ("code.py", "results/table.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n", encoding="utf-8")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    return tmp_path, git


def commit_of_a_run():
    record = RunRecord("x", [0]).finish("")
    return record["commit"], record["commit_is_clean"]


def test_commit_is_read_and_changes_outside_the_results_are_told(repository):
    top, git = repository
    head = git("rev-parse", "HEAD")
    assert re.fullmatch(r"[0-9a-f]{40}", head)
    assert commit_of_a_run() == (head, True)
    (top / "results/table.csv").write_text("2\n", encoding="utf-8")
    (top / "results/new.csv").write_text("2\n", encoding="utf-8")
    assert commit_of_a_run() == (head, True)
    (top / "new.py").write_text("2\n", encoding="utf-8")
    assert commit_of_a_run() == (head, False)
    (top / "new.py").unlink()
    (top / "code.py").write_text("2\n", encoding="utf-8")
    assert commit_of_a_run() == (head, False)


def test_commit_is_that_of_the_start_of_the_run(repository):
    top, git = repository
    head = git("rev-parse", "HEAD")
    run = RunRecord("x", [0])
    (top / "code.py").write_text("2\n", encoding="utf-8")
    git("commit", "--quiet", "--all", "--message", "second")
    assert git("rev-parse", "HEAD") != head
    record = run.finish("")
    assert (record["commit"], record["commit_is_clean"]) == (head, True)


def test_no_commit_without_a_checkout_or_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "checkout", lambda: None)
    assert commit_of_a_run() == (None, None)
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of_a_run() == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of_a_run() == (None, None)


def test_checkout_is_that_of_the_library(monkeypatch, tmp_path):
    assert provenance.checkout() == Path(__file__).resolve().parents[2]
    monkeypatch.setattr(
        provenance, "__file__", str(tmp_path / "site-packages" / "cfmtl_lib" / "runtime" / "provenance.py")
    )
    assert provenance.checkout() is None

"""Writers that are killed at every step: what is read is old or new, and a resumed run ends the same.

``tests/runtime/test_units.py`` does the same to the tables of a run.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.experiments.methods import fit_methods
from cfmtl_lib.runtime import files
from cfmtl_lib.runtime.fit_cache import FitCache

pytestmark = [
    pytest.mark.skipif(files.fcntl is None, reason="a system without locks of files"),
    pytest.mark.filterwarnings("ignore:.*max_epochs:sklearn.exceptions.ConvergenceWarning"),
]


class Killed(BaseException):
    """Ends a writer like a kill: every later change of the disk fails too."""


def kill_at(monkeypatch, step):
    """Kill at one of the calls that change the disk, in their order."""
    calls = []
    places = [(tempfile, "mkstemp"), (Path, "write_bytes"), (os, "fsync"), (os, "chmod"), (os, "replace")]
    for owner, name in [*places, (Path, "unlink")]:
        real = getattr(owner, name)

        def killed(*arguments, real=real, name=name, **options):
            if len(calls) >= step:
                raise Killed
            calls.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, killed)
    return calls


@pytest.fixture(scope="module")
def models():
    table = cf.simulated_campaign(300, seed=0).log()
    return [cf.OR(outcome=LogisticRegression(C=c, max_iter=500)).fit(table) for c in (0.1, 1.0)]


def store(folder, models, version):
    """Store a fit, always with the same key: one that is there would be read."""
    value = FitCache(folder / "fits")(lambda: np.full(50, version), fit="a")
    assert (value == version).all()


def stored(folder, models):
    """Read the fit of a copy of the folder; -1 if there is none."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "fits", copy)
    version = int(FitCache(copy)(lambda: np.full(50, -1), fit="a")[0])
    shutil.rmtree(copy)
    return version


def save(folder, models, version):
    cf.save(models[version], folder / "model.safetensors")


def saved(folder, models):
    rows = cf.simulated_campaign(100, seed=1).table
    found = cf.load(folder / "model.safetensors").predict_reward(rows, "coupon", 0.1)
    same = [np.array_equal(found, model.predict_reward(rows, "coupon", 0.1)) for model in models]
    assert sum(same) == 1
    return same.index(True)


def score(folder, models, version):
    source = folder / "rows.parquet"
    if not source.exists():
        cf.simulated_campaign(100, seed=1).table.to_parquet(source)
    cf.score_parquet(models[version], source, folder / "scores.parquet", cost=0.1, rows_per_chunk=40)


def scored(folder, models):
    found = pq.read_table(folder / "scores.parquet")["reward"].to_numpy()
    rows = pd.read_parquet(folder / "rows.parquet")
    same = [np.array_equal(found, model.predict_reward(rows, "coupon", 0.1)) for model in models]
    assert sum(same) == 1
    return same.index(True)


WRITERS = {"fit": (store, stored), "model": (save, saved), "scores": (score, scored)}
STEPS = {"fit": 6, "model": 6, "scores": 5}  # scores are not written by Path.write_bytes


@pytest.mark.parametrize("name, step", [(name, step) for name, n in STEPS.items() for step in range(n + 1)])
def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(
    name, step, models, tmp_path, monkeypatch
):
    write, read = WRITERS[name]
    write(tmp_path, models, 0)
    for path in (tmp_path / "fits").glob("*.safetensors"):
        path.unlink()
    calls = kill_at(monkeypatch, step)
    if step == STEPS[name]:
        write(tmp_path, models, 1)
        assert len(calls) == step
    else:
        with pytest.raises(Killed):
            write(tmp_path, models, 1)
    monkeypatch.undo()
    is_new = step > STEPS[name] - 2  # only the tidying after the rename is left
    assert read(tmp_path, models) == (1 if is_new else -1 if name == "fit" else 0)
    write(tmp_path, models, 1)
    assert read(tmp_path, models) == 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


METHODS = ["CF-IPS", "CF-MTL", "CF-MTL-v1"]
QUICK = {"max_epochs": 2, "embedding_k": 2}


def test_a_run_that_is_killed_after_any_fit_continues_to_the_same_rows(tmp_path, monkeypatch):
    study = cf.simulated(n_users=12, n_items=9, n_pairs=90)

    def rows(folder):
        models = fit_methods(study, METHODS, device="cpu", cache=FitCache(folder), **QUICK)
        return [models[name].predict_reward(study.test.x, "coupon", 0.4).tolist() for name in METHODS]

    expected = rows(tmp_path / "whole")
    n_fits = len(list((tmp_path / "whole").iterdir()))
    assert n_fits >= 5
    real = os.replace
    for k in range(n_fits):
        done = []

        def killed(*arguments, k=k, done=done):
            if len(done) == k:
                raise Killed
            done.append(1)
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(Killed):
                rows(tmp_path / f"killed {k}")
        assert len(list((tmp_path / f"killed {k}").iterdir())) == k
        assert rows(tmp_path / f"killed {k}") == expected


WRITER = """
import os, sys
import numpy as np
import torch
from cfmtl_lib.runtime.fit_cache import FitCache
torch.set_num_threads(1)
def killing(event, arguments):
    if event == "os.rename":
        os.kill(os.getpid(), 9)
cache = FitCache(sys.argv[1])
cache(lambda: np.arange(5), fit="a")
sys.addaudithook(killing)
cache(lambda: np.arange(9), fit="b")
"""


def test_kill_9_while_a_fit_is_stored(tmp_path):
    done = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".part", ".safetensors"]
    cache = FitCache(tmp_path)
    assert cache(lambda: pytest.fail("it was stored"), fit="a").tolist() == list(range(5))
    assert cache(lambda: np.arange(9), fit="b").tolist() == list(range(9))
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"] * 2

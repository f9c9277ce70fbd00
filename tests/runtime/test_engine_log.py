"""The engine that took the steps of a fit: in its history, in provenance, in the key of a stored fit."""

import json
import threading
from dataclasses import replace

import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.datasets.loading import construction_networks
from cfmtl_lib.experiments import studies
from cfmtl_lib.experiments.methods import fit_methods
from cfmtl_lib.models import engines
from cfmtl_lib.models.engines import engine_of_pairs
from cfmtl_lib.runtime import fit_cache
from cfmtl_lib.runtime.devices import numba_version
from cfmtl_lib.runtime.engine_log import EngineLog, engines_inside, note_engines
from cfmtl_lib.runtime.fit_cache import FitCache
from cfmtl_lib.runtime.provenance import RunRecord, checkout
from cfmtl_lib.runtime.threads import run_parallel

COMPILED = f"compiled, numba {numba_version()}"
PLAIN = "autograd, 1 thread"
QUICK = {"max_epochs": 2, "embedding_k": 2}

pytestmark = pytest.mark.filterwarnings("ignore:.*max_epochs:sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=12, n_items=9, n_pairs=90)


def engines_of(study, **settings):
    models = fit_methods(study, ["CF-OR", "CF-MTL", "CF-MTL-v1"], device="cpu", **QUICK, **settings)
    histories = [
        *models["CF-OR"].nuisances_.histories.values(),
        *models["CF-MTL"].histories_.values(),
        *models["CF-MTL-v1"].histories_.values(),
    ]
    return {history.engine for history in histories}


@pytest.mark.parametrize(("engine", "label"), [("torch", PLAIN), ("compiled", COMPILED), ("auto", COMPILED)])
def test_history_and_provenance_name_the_engine_used(engine, label, study):
    record = RunRecord("x", [0])
    assert engines_of(study, engine=engine, n_jobs=2) == {label}
    assert record.finish("")["engines"] == [label]


def test_the_engine_used_counts_and_not_the_one_asked_for(study, monkeypatch):
    monkeypatch.setattr(engines, "numba_version", lambda: None)
    assert engines_of(study, engine="auto") == {PLAIN}


def test_threads_of_torch_are_named(study):
    torch.set_num_threads(2)
    try:
        model = cf.CFMTL(config=cf.FitConfig(engine="torch", **QUICK), device="cpu").fit(study.train)
    finally:
        torch.set_num_threads(1)
    assert model.histories_["cells"].engine == "autograd, 2 threads"


def test_features_are_fitted_by_autograd():
    record = RunRecord("x", [0])
    cf.CFMTL(config=cf.FeatureConfig(n_networks=1, fit=cf.FitConfig(max_epochs=2)), device="cpu").fit(
        cf.simulated_features(100).log
    )
    assert record.finish("")["engines"] == [PLAIN]


def test_a_block_collects_the_engines_of_its_own_fits(study):
    log = EngineLog()
    with engines_inside() as outer:
        other = threading.Thread(target=note_engines, args=(["elsewhere"],))
        other.start()
        other.join()
        with engines_inside() as inner:
            run_parallel([lambda: note_engines(["a"]), lambda: note_engines(["b"])], 2)
        note_engines(["c"])
    assert (inner, outer, log.engines) == ({"a", "b"}, {"a", "b", "c"}, {"a", "b", "c", "elsewhere"})
    note_engines(["after"])
    assert "after" not in outer


def test_a_log_ends_with_its_run(study):
    note_engines(["before"])
    assert RunRecord("x", [0]).finish("")["engines"] == ["none"]


METHODS = ["CF-IPS", "CF-MTL", "CF-MTL-v1"]


def test_a_fit_of_another_engine_is_never_taken(study, tmp_path, monkeypatch):
    """Each engine has files of its own, at every place that stores fits."""

    def files(**settings):
        cache = FitCache(tmp_path)
        record = RunRecord("x", [0])
        fit_methods(study, METHODS, device="cpu", cache=cache, **QUICK, **settings)
        used = record.finish("")["engines"]
        assert used == sorted({engine for origin in cache.used.values() for engine in origin.engines})
        return used, {path.name for path in tmp_path.iterdir()}

    compiled, first = files(engine="compiled")
    plain, both = files(engine="torch")
    assert (compiled, plain) == ([COMPILED], [PLAIN])
    assert len(both) == 2 * len(first)
    assert files(engine="torch") == ([PLAIN], both)
    assert files(engine="compiled") == ([COMPILED], both)
    assert files(engine="auto")[0] == [COMPILED]
    monkeypatch.setattr(engines, "numba_version", lambda: None)
    assert files(engine="auto")[0] == [PLAIN]


def test_the_engine_is_in_the_key_of_a_construction(tmp_path, monkeypatch):
    ratings = cf.Ratings([0, 0, 1, 1], [0, 1, 0, 1], [1, 5, 4, 3], n_users=3, n_items=2)
    quick = {
        name: replace(
            fits, labelling=replace(fits.labelling, **QUICK), assignment=replace(fits.assignment, **QUICK)
        )
        for name, fits in cf.PAPER.construction.items()
    }
    monkeypatch.setattr("cfmtl_lib.datasets.loading.PAPER", replace(cf.PAPER, construction=quick))
    keys = []

    class Recording(FitCache):
        def __call__(self, make, **key):
            keys.append(key)
            return super().__call__(make, **key)

    cache = Recording(tmp_path)
    construction_networks(ratings, "authors", 0, device="cpu", cache=cache)
    monkeypatch.setattr(engines, "numba_version", lambda: None)
    construction_networks(ratings, "authors", 0, device="cpu", cache=cache)
    assert [key["engine"] for key in keys] == [[COMPILED] * 2, ["torch"] * 2]
    assert [origin.engines for origin in cache.used.values()] == [(COMPILED,), (PLAIN,)]


def test_threads_and_numba_are_in_the_key(tmp_path, monkeypatch):
    def made():
        calls = []
        FitCache(tmp_path)(lambda: calls.append(1) or 1, fit="a")
        return len(calls)

    assert (made(), made()) == (1, 0)
    torch.set_num_threads(2)
    try:
        assert (made(), made()) == (1, 0)
    finally:
        torch.set_num_threads(1)
    surroundings = fit_cache._surroundings()
    monkeypatch.setattr(fit_cache, "_surroundings", lambda: surroundings | {"numba": "other"})
    assert made() == 1


def test_engines_of_other_processes_arrive(monkeypatch):
    """A worker elsewhere notes nothing here; what it hands back is noted."""
    real = studies._one_study

    def elsewhere(*arguments):
        return real(*arguments)._replace(engines=["autograd on another machine"])

    monkeypatch.setattr(studies, "_one_study", elsewhere)
    other = EngineLog()  # another run that goes on
    run = studies.run_studies(
        lambda context: {"t": [{"a": 1}]},
        studies.StudySettings(construction="authors", seeds=1, n_jobs=1, device="cpu", progress=False),
        label="x",
        command="x",
        tables={"t": ["a"]},
    )
    assert run.provenance["engines"] == ["autograd on another machine"]
    assert other.engines == {"autograd on another machine"}


def test_every_published_file_says_which_engine_made_it():
    files = sorted((checkout() / "results").rglob("*.json"))
    assert files
    for path in files:
        record = json.loads(path.read_text(encoding="utf-8"))
        labels = record["engines"]
        assert labels == sorted(set(labels)) and labels, path
        numba = record["versions"].get("numba", "none")
        for label in labels:
            if label.startswith("LightGBM"):  # trees
                assert label == f"LightGBM {record['versions']['lightgbm']}", path
                continue
            kind, _, rest = label.partition(", ")
            assert kind in ("none", "autograd", "compiled", "data-parallel"), path
            assert kind != "compiled" or rest == f"numba {numba}" != "numba none", path
        if "run" not in record:  # written before engines were recorded
            assert record["engines_derived"].startswith("not recorded by the run; "), path


def test_names_of_engines():
    on = torch.device("cuda")
    assert engine_of_pairs(cf.FitConfig(), on) == "torch"
    assert engine_of_pairs(cf.FitConfig(), torch.device("cpu")) == COMPILED
    assert engine_of_pairs(cf.FitConfig(engine="compiled"), on) == COMPILED
    assert engine_of_pairs(cf.FitConfig(engine="data-parallel"), on) == "data-parallel"

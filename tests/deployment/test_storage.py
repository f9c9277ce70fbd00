"""Saved models: the same predictions, nothing that runs, and every way in which a file can be wrong."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import skops.io
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, ModelFileError
from cfmtl_lib.experiments.methods import factory_of, fit_methods
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.runtime import files
from cfmtl_lib.runtime.containers import digest_of, read_container

SMALL = FitConfig(embedding_k=4, tolerance=1e-2, batch_size=200)
FEW = cf.FeatureConfig(
    hidden=(8,), n_networks=2, fit=FitConfig(max_epochs=300, batch_size=256, tolerance=1e-2)
)
HEAD = "network_/networks/0/strata/parameters/head"
"""Where a saved CF-MTL of features keeps an array."""


@pytest.fixture(scope="module")
def pairs():
    return cf.simulated(n_users=40, n_items=30, n_pairs=800).train


@pytest.fixture(scope="module")
def table():
    return cf.simulated_campaign(1500, seed=2).log()


MODELS = {
    "Naive of pairs": (cf.Naive(config=SMALL), "pairs"),
    "CF-DR of pairs": (cf.CFDR(config=SMALL, cell_form="product"), "pairs"),
    "CF-OR by factors": (cf.CFOR(outcome=cf.PairClassifier("factorization", config=SMALL)), "pairs"),
    "CF-MTL of pairs": (cf.CFMTL(config=SMALL), "pairs"),
    "CF-MTL-v1 of pairs": (
        cf.CFMTLv1(config=SMALL, pretraining_propensity=SMALL, pretraining_outcome=SMALL),
        "pairs",
    ),
    "latent strata": (
        cf.LatentStrata(
            config=[cf.LatentConfig(rank=2, epochs=1), cf.LatentConfig(rank=0, epochs=1)], starts=2
        ),
        "pairs",
    ),
    "CF-OR by boosting": (cf.CFOR(), "table"),
    "OR by forests": (cf.OR(outcome=RandomForestClassifier(5)), "table"),
    "CF-DR by lines": (cf.CFDR(outcome=LogisticRegression(max_iter=300), pseudo_outcome=Ridge()), "table"),
    "CF-MTL of features": (cf.CFMTL(config=FEW), "table"),
    "CF-MTL-v1 of features": (cf.CFMTLv1(config=FEW), "table"),
    "ESCM2 of pairs": (cf.ESCM2(config=SMALL, width=4), "pairs"),
    "BNN of pairs": (cf.BNN(config=FEW, width=4), "pairs"),
    "DragonNet of features": (cf.DragonNet(config=FEW, width=4), "table"),
    "MMoE of features": (cf.MMoE(config=FEW, width=4), "table"),
}


@pytest.fixture
def saved(tmp_path, table):
    path = tmp_path / "model.safetensors"
    return path, cf.save(cf.CFMTL(config=FEW).fit(table), path)


def learners_in(path):
    """Names of the learners in a file."""
    return [name for name, value in safetensors.numpy.load_file(path).items() if value.dtype == np.uint8]


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_predicts_the_same_bits(name, pairs, table, tmp_path):
    model, kind = MODELS[name]
    log = {"pairs": pairs, "table": table}[kind]
    model.fit(log)
    path = tmp_path / "new folder" / "model.safetensors"
    fingerprint = cf.save(model, path)
    assert read_container(path, "cf.save").header["trial"] is True
    loaded = cf.load(path, fingerprint=fingerprint, schema=cf.InputSchema.from_log(log), device="cpu")
    assert type(loaded) is type(model) and loaded.schema_ == model.schema_
    for scenario in cf.SCENARIOS:
        np.testing.assert_array_equal(
            loaded.predict_reward(log, scenario, 0.3), model.predict_reward(log, scenario, 0.3)
        )
    given, found = (json.dumps(m.get_params(), default=repr, sort_keys=True) for m in (model, loaded))
    assert found.replace('"device": "cpu"', "") == given.replace('"device": "auto"', "")
    if hasattr(model, "histories_"):
        assert loaded.histories_ == model.histories_
    if hasattr(model, "predict_propensity"):
        np.testing.assert_array_equal(loaded.predict_propensity(log), model.predict_propensity(log))
    if not learners_in(path):  # skops numbers its objects anew each time
        assert cf.save(loaded.set_params(device="auto"), tmp_path / "again.safetensors") == fingerprint
    assert not hasattr(loaded, "nuisances_")  # they hold the log


def test_no_row_of_the_log_is_in_the_file(tmp_path, table):
    model = cf.OR(outcome=LogisticRegression(max_iter=300)).fit(table)
    path = tmp_path / "model.safetensors"
    cf.save(model, path)
    assert path.stat().st_size < 200_000
    arrays = safetensors.numpy.load_file(path)
    assert all(len(table) not in value.shape for value in arrays.values())


def test_saving_is_whole_or_not_at_all(tmp_path, table, monkeypatch):
    path = tmp_path / "model.safetensors"
    model = cf.OR(outcome=LogisticRegression(max_iter=300)).fit(table)
    cf.save(model, path)
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cf.save(model, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_only_fitted_models_of_the_library_are_saved(tmp_path):
    with pytest.raises(NotFittedError):
        cf.save(cf.CFOR(), tmp_path / "m")
    with pytest.raises(ModelFileError, match="expected an estimator of logs"):
        cf.save(LogisticRegression(), tmp_path / "m")
    with pytest.raises(FileNotFoundError):
        cf.load(tmp_path / "m")


class Foreign(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        return np.full((len(X), 2), 0.5)


def test_a_learner_that_would_need_foreign_code_is_not_saved(tmp_path):
    log = cf.simulated_features(300).log
    model = cf.OR(outcome=Foreign()).fit(log)
    with pytest.raises(ModelFileError, match=r"learners made of scikit-learn's own parts, found .*Foreign"):
        cf.save(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def rewrite(path, change):
    """The file with its content changed and a digest that fits the change."""
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["header"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, arrays)
    text = json.dumps(header, sort_keys=True)
    digest = digest_of(text, arrays)
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"header": text, "sha256": digest}))


def test_a_changed_file_is_refused(saved):
    path, fingerprint = saved
    content = path.read_bytes()
    changed = bytearray(content)
    changed[-5] ^= 1
    path.write_bytes(bytes(changed))
    with pytest.raises(ModelFileError, match="The file was changed or damaged"):
        cf.load(path)
    header = content.replace(b'\\"seed\\": 0', b'\\"seed\\": 7')
    assert header != content
    path.write_bytes(header)
    with pytest.raises(ModelFileError, match="The file was changed or damaged"):
        cf.load(path)
    path.write_bytes(content)

    def other(header, arrays):
        arrays[HEAD + "_bias"] = arrays[HEAD + "_bias"] + 1

    rewrite(path, other)
    cf.load(path)  # the digest was changed with it
    with pytest.raises(ModelFileError, match="expected fingerprint"):
        cf.load(path, fingerprint=fingerprint)


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", pickle.dumps({"a": 1})]
)
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"expected a file that cfmtl_lib\.save wrote"):
        cf.load(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda h, a: h.update(format="cfmtl_lib model 1"), "use that one"),
        (lambda h, a: h["model"].update({"class": "Popen"}), "Import the module that defines it"),
        (lambda h, a: h["model"]["learnt"]["network_"].update({"class": "Popen"}), "no such class"),
        (lambda h, a: h["model"]["learnt"]["network_"].update({"kind": "call"}), "a known kind of value"),
        (lambda h, a: h.pop("model"), "KeyError"),
        (lambda h, a: h["model"].pop("schema"), "KeyError"),
        (lambda h, a: h["model"]["parameters"].update(sead=1), "TypeError"),
        (lambda h, a: h["model"]["learnt"].update(predict_strata=3), "names of fitted attributes"),
        (lambda h, a: h["model"]["learnt"]["network_"]["parts"].pop("scaler"), "use that one"),
        (lambda h, a: a.pop(HEAD), f"expected the array '{HEAD}'"),
        (lambda h, a: a.update({HEAD: np.zeros((2, 2), dtype=np.float32)}), "expected shape"),
    ],
)
def test_files_that_do_not_hold_together_are_refused(change, message, saved):
    path, _ = saved
    rewrite(path, change)
    with pytest.raises(ModelFileError, match=message):
        cf.load(path)


def network(header):
    return header["model"]["learnt"]["network_"]["parts"]


def column(header, name):
    return next(c for c in header["model"]["schema"]["encoder"]["columns"] if c["name"] == name)


def strata(header):
    return network(header)["networks"]["items"][0]["parts"]["strata"]["parts"]


def fit_of(header):
    return network(header)["networks"]["items"][0]["parts"]["strata"]["parts"]["config"]["parts"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda h, a: strata(h)["sizes"]["items"].update(n_numbers=10**9), "expected shape"),
        (lambda h, a: strata(h)["sizes"]["items"].update(n_outputs=10**9), "expected shape"),
        (lambda h, a: strata(h)["sizes"]["items"].update(n_outputs=1.5), "size n_outputs"),
        (lambda h, a: fit_of(h)["hidden"].update(items=[10**5]), "expected shape"),
        (lambda h, a: fit_of(h).update(embedding_k="8"), "FeatureConfig.embedding_k"),
        (lambda h, a: strata(h).update(config=None), "expected a FeatureConfig"),
        (lambda h, a: a.update({HEAD: a[HEAD] * np.nan}), "finite numbers"),
        (lambda h, a: a.update({HEAD: a[HEAD].astype(np.int32)}), "floats"),
        (lambda h, a: strata(h)["parameters"]["items"].update(more={"kind": "float", "value": "1"}), "more"),
        (lambda h, a: network(h).update(scaler=3), "expected some, and a scaler"),
        (lambda h, a: network(h)["networks"].update(items=[]), "expected some, and a scaler"),
        (lambda h, a: network(h)["networks"].update(items=[1]), "networks of what the scaler gives"),
        (lambda h, a: network(h)["scaler"]["parts"]["codes"].update(items=[10**6]), "knots of each"),
        (lambda h, a: network(h)["scaler"]["parts"]["levels"].update(items=[]), "knots of each"),
        (lambda h, a: h["model"]["learnt"].update(network_=3), "parts of a fitted model"),
        (lambda h, a: h["model"]["learnt"].pop("network_"), "parts of a fitted model"),
        (lambda h, a: h["model"]["schema"].update(n_features=10**12), "one kind of x"),
        (lambda h, a: h["model"]["schema"].update(n_features=-1), "one kind of x"),
        (lambda h, a: h["model"]["schema"].update(pair_space=[3, 2]), "one kind of x"),
        (lambda h, a: h["model"]["schema"]["encoder"]["columns"].pop(), "one kind of x"),
        (lambda h, a: h["model"]["schema"]["encoder"]["columns"][0].update(kind="date"), "kind of column"),
        (lambda h, a: column(h, "city").update(categories=[[1], "b"]), "one kind of x"),
        (lambda h, a: column(h, "city")["categories"].append(column(h, "city")["categories"][0]), "one kind"),
        (lambda h, a: column(h, "age").update(categories=["a"]), "one kind of x"),
        (lambda h, a: column(h, "age").update(name=[]), "one kind of x"),
        (lambda h, a: h["model"].update(schema=[]), "parts of a fitted model"),
        (lambda h, a: h["model"].update(learnt=[]), "parts of a fitted model"),
        (lambda h, a: h["model"].update({"class": ["CFMTL"]}), "no such class"),
        (lambda h, a: h.update(versions=3), None),
        (lambda h, a: h.update(model=None), "parts of a fitted model"),
        (lambda h, a: h.update(format=["x"]), "another version"),
    ],
)
def test_parts_of_other_sizes_and_kinds_are_refused_before_they_are_made(change, message, saved):
    path, _ = saved
    rewrite(path, change)
    if message is None:
        cf.load(path)  # no learner: the version of scikit-learn does not matter
        return
    with pytest.raises(ModelFileError, match=message):
        cf.load(path)


def as_learner(learner):
    return np.frombuffer(skops.io.dumps(learner), dtype=np.uint8)


LEARNER = "moments_/converted_treated/learner"


def moment(header):
    return header["model"]["learnt"]["moments_"]["items"]["converted_treated"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda h, a: a.update({LEARNER: a[LEARNER][:-40]}), "a learner that skops wrote"),
        (lambda h, a: a.update({LEARNER: np.zeros(0, np.uint8)}), "a learner that skops wrote"),
        (lambda h, a: a.update({LEARNER: as_learner(LogisticRegression())}), "NotFittedError"),
        (lambda h, a: a.update({LEARNER: as_learner(Ridge().fit([[0], [1]], [0, 1]))}), "1 features"),
        (lambda h, a: a.update({LEARNER: as_learner({"predict": 1})}), "a learner of scikit-learn"),
        (lambda h, a: moment(h)["parts"].update(learner=3), "one that predicts"),
        (lambda h, a: moment(h)["parts"].update(learner=None, constant="1"), "constant"),
        (lambda h, a: moment(h)["parts"].update(learner=None, constant=10**400), "expected"),
        (
            lambda h, a: h["model"]["learnt"]["moments_"]["items"].update(converted_treated=1),
            "AttributeError",
        ),
        (lambda h, a: h["model"]["learnt"]["moments_"].update(items={}), "KeyError"),
        (lambda h, a: h["model"]["learnt"].update(moments_=None), "TypeError"),
    ],
)
def test_parts_that_would_fail_at_prediction_are_refused_when_loaded(change, message, tmp_path):
    path = tmp_path / "model.safetensors"
    cf.save(cf.CFOR(outcome=LogisticRegression()).fit(cf.simulated_features(300).log), path)
    rewrite(path, change)
    with pytest.raises(ModelFileError, match=message):
        cf.load(path)


def test_networks_of_fewer_pairs_than_the_schema_are_refused(tmp_path, pairs):
    path = tmp_path / "model.safetensors"
    cf.save(cf.Naive(config=SMALL).fit(pairs), path)
    rewrite(path, lambda h, a: h["model"]["schema"].update(pair_space=[41, 30]))
    with pytest.raises(ModelFileError, match="LogError"):
        cf.load(path)

    def huge(header, arrays):
        for part in header["model"]["learnt"]["moments_"]["items"].values():
            part["parts"]["sizes"]["items"].update(n_users=10**9)

    cf.save(cf.Naive(config=SMALL).fit(pairs), path)
    rewrite(path, huge)
    with pytest.raises(ModelFileError, match=r"expected shape \(1000000000, 4\)"):
        cf.load(path)


def test_a_model_that_refuses_the_trial_rows_can_still_be_saved(tmp_path):
    """A user's own pipeline need not know the code of a missing category."""
    table = pd.DataFrame(
        {"city": ["a", "b"] * 100, "t": [0, 0, 1, 1] * 50, "c": 0, "y": [0, 1, 1] * 66 + [0, 1]}
    )
    log = cf.IncentiveLog.from_frame(table, features=["city"], treatment="t", collected="c", converted="y")
    strict = make_pipeline(OneHotEncoder(), LogisticRegression())
    model = cf.OR(outcome=strict).fit(log)
    cf.save(model, tmp_path / "m")
    np.testing.assert_array_equal(
        cf.load(tmp_path / "m").predict_reward(table, "coupon", 0.1),
        model.predict_reward(table, "coupon", 0.1),
    )


@pytest.mark.parametrize("name", ["CF-OR by boosting", "CF-MTL of features", "Naive of pairs"])
def test_no_flipped_byte_changes_a_prediction(name, pairs, table, tmp_path):
    """Fifty flips of each file: in names, shapes, trees, weights, the digest."""
    model, kind = MODELS[name]
    log = {"pairs": pairs, "table": table}[kind]
    path = tmp_path / "model.safetensors"
    cf.save(model.fit(log), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*rng.choice(len(whole), 40, replace=False), *rng.choice(2000, 10, replace=False)]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(flipped))
        with pytest.raises(ModelFileError):
            cf.load(path)
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:9], whole + b"0"):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            cf.load(path)


def test_a_path_that_cannot_be_written_is_told(tmp_path):
    model = cf.OR(outcome=LogisticRegression()).fit(cf.simulated_features(300).log)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for path in (tmp_path, tmp_path / "file" / "model"):
        with pytest.raises(ModelFileError, match=r"a file that can be written.* Name another path"):
            cf.save(model, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match=r"a file that cfmtl_lib\.save wrote"):
        cf.load(tmp_path)


def test_a_wrong_schema_is_refused(saved, pairs):
    path, _ = saved
    with pytest.raises(ModelFileError, match=r"expected a model of InputSchema\(n_features=2, pair_space"):
        cf.load(path, schema=cf.InputSchema.from_log(pairs))


def test_planted_learners_are_refused(tmp_path, monkeypatch):
    """skops names what a file would make; anything beyond scikit-learn's own parts stops the loading."""
    path = tmp_path / "model.safetensors"
    cf.save(cf.OR(outcome=LogisticRegression()).fit(cf.simulated_features(300).log), path)
    planted = np.frombuffer(skops.io.dumps(Foreign()), dtype=np.uint8)
    rewrite(path, lambda h, a: a.update({"moments_/converted_treated/learner": planted}))
    monkeypatch.setattr(Foreign, "__setstate__", lambda *_: pytest.fail("it was made"), raising=False)
    with pytest.raises(ModelFileError, match="Other types could run code"):
        cf.load(path)


def test_learners_of_another_scikit_learn_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    cf.save(cf.OR(outcome=LogisticRegression()).fit(cf.simulated_features(300).log), path)
    rewrite(path, lambda h, a: h["versions"].update({"scikit-learn": "0.1"}))
    with pytest.raises(ModelFileError, match=r"found those of 0\.1\. Install scikit-learn 0\.1"):
        cf.load(path)


class Lift(cf.LogEstimator, method="Lift"):
    def __init__(self, *, column=0, floor=-np.inf):
        self.column, self.floor = column, floor

    def fit(self, x, y=None):
        log = cf.IncentiveLog.from_xy(x, y)
        self.remember_input(log)
        self.groups_ = np.unique(log.x[:, self.column])
        rows = [(log.x[:, self.column] == g, log.t == 1) for g in self.groups_]
        self.lift_ = np.array([log.y[g & t].mean() - log.y[g & ~t].mean() for g, t in rows])
        return self

    def predict_reward(self, x, scenario, cost):
        groups = np.searchsorted(self.groups_, self.schema_.matrix(x)[:, self.column])
        return (self.lift_[groups] - cost).clip(self.floor)


def test_a_class_outside_the_package_is_fitted_compared_saved_and_loaded(tmp_path):
    log = cf.simulated_features(3000, seed=1).log
    model = factory_of("Lift")(column=2).fit(log)
    rewards = model.predict_reward(log, "coupon", 0.4)
    assert len(np.unique(rewards)) == 2
    table = cf.compare_models(log, {"Lift": Lift(), "OR": cf.OR()}, cost=0.1, folds=2)
    assert table.index.tolist() == ["Lift", "OR"] and table["value"].notna().all()
    study = cf.simulated(n_users=9, n_items=40, n_pairs=300)
    assert set(fit_methods(study, ["Lift", "Naive"], device="cpu")) == {"Lift", "Naive"}
    with pytest.raises(InputError, match="a name that no other estimator has, found 'CF-OR'"):
        type("Mine", (cf.CFOR,), {}, method="CF-OR")
    fingerprint = cf.save(model, tmp_path / "lift.safetensors")
    loaded = cf.load(tmp_path / "lift.safetensors", fingerprint=fingerprint)
    assert type(loaded) is Lift and loaded.get_params() == model.get_params()
    np.testing.assert_array_equal(loaded.predict_reward(log, "coupon", 0.4), rewards)


def test_what_cannot_be_saved_is_named(tmp_path):
    model = Lift().fit(cf.simulated_features(300).log)
    model.secret_ = {"how": [lambda: 1]}
    with pytest.raises(ModelFileError, match=r"secret_/how/0: expected numbers.* found function"):
        cf.save(model, tmp_path / "m")
    model.secret_ = {1: 2}
    with pytest.raises(ModelFileError, match="dictionaries"):
        cf.save(model, tmp_path / "m")
    model.secret_ = {"how": [float("inf"), (None, np.int64(3)), np.arange(3)]}
    cf.save(model, tmp_path / "m")
    assert repr(cf.load(tmp_path / "m").secret_) == repr({"how": [float("inf"), (None, 3), np.arange(3)]})

"""BART and BCF: the effect of a confounded world, both forms of BART, and what is refused."""

import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnknownNameError


@pytest.mark.parametrize("arms", ["separate", "joint"])
def test_bart_finds_the_effect_of_a_confounded_world(world, finds_the_effect, arms):
    pytest.importorskip("stochtree", reason="pip install -e '.[baselines]'")
    model = cf.BART(arms=arms, n_draws=20).fit(world.log)
    finds_the_effect(model, world)
    treated = model._arm_means(world.new)[0]
    assert np.corrcoef(treated, world.new_strata[:, [1, 3, 4]].sum(axis=1))[0, 1] > 0.8
    assert -0.69 < model.score(world.log) < 0


def test_bcf_finds_the_effect_of_a_confounded_world(world, finds_the_effect):
    pytest.importorskip("stochtree", reason="pip install -e '.[baselines]'")
    model = cf.BCF(n_grown=10, n_draws=5, n_trees=20).fit(world.log)
    finds_the_effect(model, world)
    treated, untreated = model._arm_means(world.new)
    inside = (np.minimum(treated, untreated) > 0) & (np.maximum(treated, untreated) < 1)
    cate = model.predict_cate(world.new)
    np.testing.assert_allclose((treated - untreated)[inside], cate[inside], atol=1e-9)


def test_bcf_sees_the_propensity_of_its_classifier_at_fit_and_at_new_rows(world, monkeypatch):
    stochtree, seen = pytest.importorskip("stochtree", reason="pip install -e '.[baselines]'"), {}

    class Recorder:
        def sample(self, **given):
            seen.update(given)

        def predict(self, X, Z, propensity, terms, type):
            seen["new"] = propensity
            return np.zeros((len(X), 2))

    monkeypatch.setattr(stochtree, "BCFModel", Recorder)
    logistic = LogisticRegression(C=0.2)
    model = cf.BCF(propensity=logistic, n_trees=2, n_grown=1, n_draws=1).fit(world.log)
    model.predict_cate(world.new)
    alone = clone(logistic).fit(world.log.x, world.log.t)
    for found, x in ((seen["propensity_train"], world.log.x), (seen["new"], world.new)):
        np.testing.assert_allclose(found, alone.predict_proba(x)[:, 1], atol=1e-12)


@pytest.mark.parametrize("kind", [cf.BART, cf.BCF])
def test_without_stochtree_the_command_that_installs_it_is_named(kind, world, monkeypatch):
    monkeypatch.setitem(sys.modules, "stochtree", None)
    with pytest.raises(InputError, match=r"expected the package stochtree.*pip install stochtree"):
        kind().fit(world.log)


def test_settings_are_checked(world):
    for wrong in ({"n_trees": 0}, {"n_draws": -1}, {"n_grown": 0, "n_draws": 0}, {"n_jobs": 0}):
        for kind in (cf.BART, cf.BCF):
            with pytest.raises(InputError, match=r"n_(trees|draws|jobs): expected"):
                kind(**wrong).fit(world.log)
    with pytest.raises(UnknownNameError, match="arms: expected one of 'separate', 'joint'"):
        cf.BART(arms="both").fit(world.log)
    with pytest.raises(InputError, match="propensity: expected a classifier"):
        cf.BCF(propensity=3).fit(world.log)


def test_any_seed_and_integers_of_numpy_are_taken(world):
    pytest.importorskip("stochtree", reason="pip install -e '.[baselines]'")
    log, few = world.log.take(np.arange(200)), {"n_trees": 4, "n_grown": 2, "n_draws": 2}
    as_numpy = {name: np.int64(value) for name, value in few.items()}
    for kind in (cf.BART, cf.BCF):
        seeds = (0, 2**31, 2**32 - 1, np.int64(2**32 - 1))
        cates = [kind(seed=seed, **few).fit(log).predict_cate(log) for seed in seeds[:3]]
        again = kind(seed=seeds[3], **as_numpy).fit(log).predict_cate(log)
        np.testing.assert_array_equal(again, cates[2])
        assert all((one != other).any() for one, other in ((cates[0], cates[1]), (cates[1], cates[2])))

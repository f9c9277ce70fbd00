"""Causal forest: the effect of a confounded world, centred outcomes, and what is refused."""

import sys

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError


def test_the_effect_of_a_confounded_world_is_found(world, finds_the_effect):
    pytest.importorskip("econml", reason="pip install -e '.[baselines]'")
    finds_the_effect(cf.CausalForest(n_trees=100, folds=2).fit(world.log), world)


def test_centring_removes_confounding_where_trees_cannot_split(world):
    """A forest of roots alone: one effect, which does not depend on x and would be the difference of arms."""
    pytest.importorskip("econml", reason="pip install -e '.[baselines]'")
    cate = cf.CausalForest(n_trees=40, min_leaf=900).fit(world.log).predict_cate(world.new)
    assert np.ptp(cate) < 1e-9
    assert abs(cate[0] - world.average) <= 3 * world.standard_error
    assert world.difference - cate[0] > 5 * world.standard_error


def test_a_known_propensity_replaces_the_fitted_one(world, monkeypatch):
    pytest.importorskip("econml", reason="pip install -e '.[baselines]'")
    log = world.log.take(np.arange(400))
    known = cf.IncentiveLog(log.x, log.t, log.c, log.y, propensity=0.5)
    fitted = []
    monkeypatch.setattr(
        "cfmtl_lib.estimators.effects.causal_forest.ClassifierByFold.fit_part",
        lambda self, x, k: fitted.append(self.name) or self._values.fill(0.5),
    )
    cf.CausalForest(n_trees=4).fit(known)
    assert set(fitted) == {"converted"}
    fitted.clear()
    cf.CausalForest(n_trees=4).fit(log)
    assert set(fitted) == {"converted", "propensity"}


def test_without_econml_the_command_that_installs_it_is_named(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "econml.grf", None)
    with pytest.raises(InputError, match=r"causal forest: expected the package econml.*pip install econml"):
        cf.CausalForest().fit(world.log)


@pytest.mark.parametrize("setting", [{"n_trees": 0}, {"min_leaf": 0}, {"folds": 1}, {"n_jobs": 0}])
def test_settings_are_checked(world, setting):
    with pytest.raises(InputError, match=f"{next(iter(setting))}: expected"):
        cf.CausalForest(**setting).fit(world.log)


def test_the_result_does_not_depend_on_the_threads(world):
    pytest.importorskip("econml", reason="pip install -e '.[baselines]'")
    log = world.log.take(np.arange(1000))
    one, two = (cf.CausalForest(n_trees=40, n_jobs=n).fit(log).predict_cate(log) for n in (1, 2))
    np.testing.assert_array_equal(one, two)

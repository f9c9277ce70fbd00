"""Folds, weights and clipping of nuisances, by hand."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

import cfmtl_lib as cf
from cfmtl_lib.nuisances.cross_fitting import fold_of_rows
from cfmtl_lib.nuisances.moments import MOMENTS, LogNuisances


class Constant(ClassifierMixin, BaseEstimator):
    """Answers with one probability, whatever it has seen."""

    def __init__(self, probability=0.5):
        self.probability = probability

    def fit(self, x, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, x):
        return np.tile([1 - self.probability, self.probability], (len(x), 1))


class Memory(ClassifierMixin, BaseEstimator):
    """Answers with 0.9 for a value that it has seen, and with 0.5 for any other."""

    def fit(self, x, y):
        self.classes_, self.seen_ = np.array([0, 1]), np.unique(x[:, 0])
        return self

    def predict_proba(self, x):
        one = np.where(np.isin(x[:, 0], self.seen_), 0.9, 0.5)
        return np.stack([1 - one, one], axis=1)


def drawn(n=600, cluster=None):
    rng = np.random.default_rng(0)
    t = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 1)) if cluster is None else cluster[:, None].astype(float)
    return cf.IncentiveLog(x, t, t * rng.integers(0, 2, n), rng.integers(0, 2, n), cluster=cluster)


def test_rows_of_a_cluster_never_help_to_predict_one_another():
    log = drawn(cluster=np.random.default_rng(1).integers(0, 60, 600))
    found = cf.crossfit(log, outcome=Memory(), propensity=Memory(), folds=4)
    for name in ("propensity", *MOMENTS):
        assert (getattr(found, name) == 0.5).all(), name
    # Without labels, rows of one value are split, and seen.
    apart = cf.crossfit(
        cf.IncentiveLog(log.x, log.t, log.c, log.y), outcome=Memory(), propensity=Memory(), folds=4
    )
    assert (apart.propensity == 0.9).mean() > 0.9


@pytest.mark.parametrize("clustered", [False, True])
def test_the_seed_draws_the_folds(clustered):
    log = drawn(cluster=np.arange(600) // 4 if clustered else None)
    first, again, other = (fold_of_rows(log, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5
    assert np.bincount(first).tolist() == pytest.approx([120] * 5, abs=12)


def test_folds_have_the_cells_in_equal_shares_and_the_arms_where_a_cell_is_rare():
    log = drawn()
    fold = fold_of_rows(log, 5, 0)
    for cell in range(6):
        assert np.ptp(np.bincount(fold[log.cell == cell], minlength=5)) <= 1
    c = np.where(np.cumsum(log.t) <= 3, log.t, 0)  # three rows that collected, fewer than folds
    rare = cf.IncentiveLog(log.x, log.t, c, log.y)
    fold = fold_of_rows(rare, 5, 0)
    for arm in (0, 1):
        assert np.ptp(np.bincount(fold[log.t == arm], minlength=5)) <= 1


def test_the_propensity_has_the_classifier_given_for_it():
    found = cf.crossfit(drawn(), outcome=Constant(0.2), propensity=Constant(0.7), folds=3)
    np.testing.assert_allclose(found.propensity, 0.7)
    for name in MOMENTS:
        np.testing.assert_allclose(getattr(found, name), 0.2)
    np.testing.assert_allclose(cf.crossfit(drawn(), outcome=Constant(0.2), folds=3).propensity, 0.2)


def test_weights_and_scores_of_each_arm_by_hand():
    log = cf.IncentiveLog([[0.0], [1.0], [2.0], [3.0]], t=[1, 1, 0, 0], c=[1, 0, 0, 0], y=[1, 0, 1, 0])
    e, mean = np.array([0.2, 0.8, 0.2, 0.8]), np.full(4, 0.5)
    expected = {
        "converted_treated": ([5, 1.25, 0, 0], [3.0, -0.125, 0.5, 0.5]),
        "converted_untreated": ([0, 0, 1.25, 5], [0.5, 0.5, 1.125, -2.0]),
        "collected_treated": ([5, 1.25, 0, 0], [3.0, -0.125, 0.5, 0.5]),
        "collected_and_converted_treated": ([5, 1.25, 0, 0], [3.0, -0.125, 0.5, 0.5]),
    }
    for name, (weights, scores) in expected.items():
        np.testing.assert_allclose(MOMENTS[name].weights(log, e), weights)
        np.testing.assert_allclose(MOMENTS[name].doubly_robust(log, mean, e), scores)


def test_clipping_moves_propensities_from_both_ends_and_no_mean():
    e, mean = np.array([0.05, 0.5, 0.97]), np.array([0.0, 0.5, 1.0])
    found = LogNuisances(e, *[mean] * 4, propensity_is_known=True).clipped(0.1, 0.8)
    np.testing.assert_array_equal(found.propensity, [0.1, 0.5, 0.8])
    assert found.propensity_is_known
    for name in MOMENTS:
        np.testing.assert_array_equal(getattr(found, name), mean)

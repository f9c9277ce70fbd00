"""Rows of equal reward: which of them are treated says nothing about the order of the rows."""

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.policy.ties import tie_keys
from cfmtl_lib.value.calibration import calibration_curve, equal_size_bins
from cfmtl_lib.value.diagnostics import propensity_calibration

MANY = 4000


def test_half_of_equal_rows_is_a_random_half():
    treat = cf.allocate(np.ones(MANY), 0.5)
    assert treat.sum() == MANY // 2
    first, odd = treat[: MANY // 2].mean(), treat[::2].mean()
    for share in (first, odd):  # hypergeometric: sd of a share of 2,000 of 4,000
        assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(MANY)
    assert (treat != cf.allocate(np.ones(MANY), 0.5, seed=1)).any()
    np.testing.assert_array_equal(treat, cf.allocate(np.ones(MANY), 0.5, seed=0))


@pytest.mark.parametrize("labels", ["numbers", "texts", "two levels", "repeated"])
def test_rows_with_labels_are_treated_whatever_their_order(labels):
    names = [f"customer {k}" for k in range(100)]
    index = {
        "numbers": pd.Index(np.arange(100) * 7 - 50),
        "texts": pd.Index(names),
        "two levels": pd.MultiIndex.from_product([list("abcdefghij"), range(10)]),
        "repeated": pd.Index(["one"] * 50 + names[:50]),
    }[labels]
    reward = pd.Series(np.repeat([1.0, 2.0], 50), index=index)
    treat = pd.Series(cf.allocate(reward, 0.7), index=index)
    assert treat[50:].all() and treat[:50].sum() == 20
    shuffled = reward.sample(frac=1, random_state=0)
    again = pd.Series(cf.allocate(shuffled, 0.7), index=shuffled.index)
    if labels != "repeated":
        assert again.reindex(index).tolist() == treat.tolist()
    assert treat[:50].to_numpy()[:20].sum() < 20  # not the first


def test_a_series_that_counts_from_0_is_treated_as_its_array():
    reward = np.repeat([1.0, 2.0], 50)
    np.testing.assert_array_equal(cf.allocate(pd.Series(reward), 0.7), cf.allocate(reward, 0.7))


def test_the_first_of_equal_rows_are_taken_where_asked():
    assert cf.allocate([1.0, 1.0, 1.0, 1.0], 0.5, ties="first").tolist() == [True, True, False, False]
    assert cf.allocate_arms([[1.0]] * 3, number=2, ties="first").tolist() == [0, 0, -1]
    with pytest.raises(cf.UnknownNameError, match=r"ties: expected one of 'random', 'first'"):
        cf.allocate([1.0], 0.5, ties="last")


@pytest.mark.parametrize("budget", [{"budget": 0.3}, {"number": 7}, {"money": 4.1}])
def test_one_arm_is_the_policy_of_one_incentive_among_ties(budget):
    rng = np.random.default_rng(0)
    reward, spend = np.round(rng.normal(0.2, 0.3, (40, 1)), 1), np.round(rng.uniform(0, 1, (40, 1)), 1)
    paid = {"spend": spend} if "money" in budget else {}
    arms = cf.allocate_arms(reward, **budget, **paid)
    one = cf.allocate(reward[:, 0], **budget, **{name: part[:, 0] for name, part in paid.items()})
    np.testing.assert_array_equal(arms == 0, one)


def sorted_log(n=MANY):
    """A log sorted by its outcome and, within it, by the arm."""
    study = cf.simulated_features(n, seed=3)
    order = np.lexsort((study.log.t, -study.log.y))
    means = study.true_nuisances
    nuisances = cf.LogNuisances.from_means(
        means.propensity[order],
        {name: mean[order] for name, mean in means.means().items()},
        propensity_is_known=True,
    )
    return study, study.log.take(order), nuisances


def test_a_constant_score_earns_what_it_is_worth_in_a_log_sorted_by_its_outcome():
    study, log, nuisances = sorted_log()
    everyone = study.true_value(np.ones(MANY), "coupon", 0.4)
    for seed in range(3):
        treat = cf.allocate(np.ones(MANY), 0.4, seed=seed)
        value = cf.policy_value(treat, log, nuisances, cost=0.4)
        assert abs(value.value - 0.4 * everyone) < 3 * value.standard_error
    first = cf.policy_value(cf.allocate(np.ones(MANY), 0.4, ties="first"), log, nuisances, cost=0.4)
    assert abs(first.value - 0.4 * everyone) > 10 * first.standard_error


def test_a_trial_of_one_propensity_sorted_by_arm_is_calibrated():
    t = np.repeat([1, 0], [600, 400])
    log = cf.IncentiveLog(np.zeros((1000, 1)), t, 0 * t, 0 * t)
    half = np.full(1000, 0.5)
    nuisances = cf.LogNuisances(half + 0.1, half, half, half, half, propensity_is_known=True)
    table = propensity_calibration(log, nuisances, n_bins=10)
    assert table.attrs["p_value"] > 0.01 and (table["z"].abs() < 4).all()
    assert calibration_curve(half, t, n_bins=5)["observed"].between(0.4, 0.8).all()


def test_bins_without_ties_are_those_of_the_order():
    assert [p.tolist() for p in equal_size_bins(np.array([0.3, 0.1, 0.2, 0.4]), 2)] == [[1, 2], [0, 3]]


def test_keys_are_all_different_and_spread():
    keys = tie_keys(10_000)
    assert len(np.unique(keys)) == 10_000
    position = np.argsort(keys) / 10_000
    assert abs(np.corrcoef(position, np.arange(10_000))[0, 1]) < 0.05

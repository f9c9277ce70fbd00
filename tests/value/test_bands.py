"""What a budget curve says of itself: bands, the best budget, areas, units of a score of 0."""

import numpy as np
import pytest
from scipy.stats import norm

import cfmtl_lib as cf
from cfmtl_lib.value.curves import BudgetCurve
from cfmtl_lib.value.rankings import Ranking, mean_height, uniform_factor


def test_a_uniform_band_is_never_narrower_than_the_pointwise_intervals():
    """Two replicates one error away: nothing is ever further out, and normal limits are wider."""
    replicates, value = np.array([[0.0, 1.0], [0.0, -1.0]]), np.zeros(2)
    error = np.array([0.0, 1.0])
    for level in (0.5, 0.8, 0.95):
        found = uniform_factor(replicates, value, error, level)
        assert found == pytest.approx(max(1.0, norm.ppf((1 + level) / 2)))
    assert uniform_factor(5 * replicates, value, error, 0.95) == 5.0
    assert uniform_factor(7 + 10 * replicates, value + 7, 2 * error, 0.95) == 5.0
    assert uniform_factor(replicates, value, np.zeros(2), 0.95) == 0.0


@pytest.fixture
def curve():
    """Four budgets at which each wrong limit would give another answer."""
    value = np.array([0.0, 2.0, 3.0, 2.5])
    pointwise, uniform = np.array([0.5, 1.2, 0.5, 0.2]), np.array([1.0, 2.4, 1.0, 0.3])
    return BudgetCurve(
        by="share",
        budget=np.array([0.1, 0.2, 0.3, 0.4]),
        value=value,
        standard_error=pointwise / 2,
        lower=value - pointwise,
        upper=value + pointwise,
        lower_uniform=value - uniform,
        upper_uniform=value + uniform,
        spend=np.zeros(4),
        spend_standard_error=np.zeros(4),
        share=np.zeros(4),
        area=0.0,
        area_standard_error=0.0,
        level=0.95,
        n_bootstrap=50,
    )


def test_the_best_budget_has_the_uniform_band_and_so_have_its_rivals(curve):
    # The highest uniform lower limit is 2.2, at 0.4; the upper ones that reach it begin at 0.2.
    assert curve.best() == (0.3, 3.0, 2.0, 4.0, 0.2, 0.4)


def test_a_rival_reaches_the_highest_lower_limit_by_its_uniform_upper_one(curve):
    curve.upper_uniform[1], curve.lower_uniform[2] = 2.6, 2.55  # 2.5 of the pointwise lower limit is not it
    assert curve.best().earliest == 0.2
    curve.upper_uniform[1] = 2.54
    assert curve.best().earliest == 0.3
    curve.upper_uniform[3] = 2.5
    assert curve.best().latest == 0.3


def test_one_rival_alone_is_first_and_last():
    narrow = BudgetCurve("share", *([np.array([0.0, 1.0])] * 10), 0.5, 0.0, 0.95, 50)
    assert narrow.best()[4:] == (1.0, 1.0)


def test_units_of_a_score_of_zero_are_not_treated():
    score = np.array([0.0, 2.0, -1.0, 0.0, 1.0])
    ranking = Ranking(score, np.ones(5), np.ones(5), only_positive=True)
    for by in ("share", "spend"):
        value, spend, share = ranking.at(np.array([0.2, 1.0]), by, np.ones(5))
        np.testing.assert_allclose([value, spend, share], [[0.2, 0.4]] * 3)
    everyone = Ranking(score, np.ones(5), np.ones(5), only_positive=False)
    assert everyone.at(np.array([1.0]), "share", np.ones(5))[2] == 1.0


def test_a_ranking_that_stops_is_the_policy_of_allocate():
    study = cf.simulated_features(500, seed=2)
    score = study.log.x[:, 0] - study.log.x[:, 1]  # half of them 0
    curve = cf.budget_curve(score, study.log, study.true_nuisances, cost=0.4, n_bootstrap=50)
    assert curve.share[-1] == cf.allocate(score, 1.0).mean() == (score > 0).mean()
    by_hand = cf.policy_value(score > 0, study.log, study.true_nuisances, cost=0.4)
    assert curve.value[-1] == pytest.approx(by_hand.value, abs=1e-9)


def test_the_area_is_the_mean_height_over_the_budgets_asked_for():
    assert mean_height(np.array([0.2, 0.4, 0.6]), np.array([1.0, 3.0, 1.0])) == pytest.approx(2.0)
    study = cf.simulated_features(500, seed=2)
    options = {"cost": 0.4, "n_bootstrap": 50, "only_positive": False}
    score = study.strata_probability[:, 3]
    curve = cf.budget_curve(score, study.log, study.true_nuisances, budgets=[0.5, 0.75, 1.0], **options)
    assert curve.area == pytest.approx((curve.value[0] + 2 * curve.value[1] + curve.value[2]) / 4)


def test_a_difference_stops_where_each_score_does():
    study = cf.simulated_features(500, seed=2)
    log, truth = study.log, study.true_nuisances
    first, second = log.x[:, 0] - 0.5, log.x[:, 1] - log.x[:, 2]
    for only_positive in (True, False):
        options = {"cost": 0.4, "n_bootstrap": 50, "budgets": [0.3, 1.0], "only_positive": only_positive}
        each = [cf.budget_curve(score, log, truth, **options).share for score in (first, second)]
        found = cf.budget_curve_difference(first, second, log, truth, **options)
        np.testing.assert_allclose(found.share, each[0] - each[1], atol=1e-12)

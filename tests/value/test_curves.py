"""Budget curves: the same values as policies, bands that hold, money that adds up."""

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.datasets.simulation_features import POINTS, strata_probabilities
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.experiments.evaluation.monte_carlo import binomial_range
from cfmtl_lib.policy.rewards import stratum_rewards
from cfmtl_lib.value.rankings import Ranking

SHARES = np.linspace(0, 1, 21)


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(2000, seed=4)


@pytest.fixture(scope="module")
def score(study):
    return cf.expected_reward(study.strata_probability, "coupon", 0.4)


@pytest.fixture(scope="module")
def curve(study, score):
    return cf.budget_curve(score, study.log, study.true_nuisances, budgets=SHARES, n_bootstrap=200, cost=0.4)


def test_each_point_is_the_value_of_the_best_policy_that_treats_ties_alike(study, score, curve):
    """The scores have 32 values, so that nearly every budget ends among ties."""
    for k, share in enumerate(SHARES):
        treat = cf.threshold_policy(score, round(share, 2)).probability
        value = cf.policy_value(treat, study.log, study.true_nuisances, cost=0.4)
        assert curve.value[k] == pytest.approx(value.value, abs=1e-9)
        assert curve.spend[k] == pytest.approx(value.spend.value, abs=1e-9)
        assert curve.share[k] == pytest.approx(value.share_treated, abs=1e-9)


def test_without_the_stop_everyone_is_treated_and_the_error_is_that_of_a_mean(study, score):
    curve = cf.budget_curve(
        score, study.log, study.true_nuisances, only_positive=False, n_bootstrap=400, budgets=SHARES, cost=0.4
    )
    value = cf.policy_value(np.ones(2000), study.log, study.true_nuisances, cost=0.4)
    assert curve.value[-1] == pytest.approx(value.value, abs=1e-9)
    for ours, exact in (
        (curve.standard_error[-1], value.standard_error),
        (curve.spend_standard_error[-1], value.spend.standard_error),
    ):
        assert abs(ours - exact) <= 3 * exact / np.sqrt(2 * 399)
    assert curve.value[0] == curve.standard_error[0] == 0


def test_bands_are_nested_and_the_frame_holds_them(curve):
    assert (curve.lower_uniform <= curve.lower + 1e-12).all()
    assert (curve.lower <= curve.value).all() and (curve.value <= curve.upper).all()
    assert (curve.upper <= curve.upper_uniform + 1e-12).all()
    assert len(curve.frame()) == 21 and curve.frame()["value"].tolist() == curve.value.tolist()


def test_money_buys_what_it_pays_for(study, score):
    budgets = [0.0, 0.02, 0.05, 0.08]
    curve = cf.budget_curve(
        score, study.log, study.true_nuisances, by="spend", budgets=budgets, n_bootstrap=50, cost=0.4
    )
    np.testing.assert_allclose(curve.spend, budgets, atol=1e-9)
    assert (np.diff(curve.share) > 0).all()
    by_share = cf.budget_curve(
        score, study.log, study.true_nuisances, budgets=[0, *curve.share[1:], 1], n_bootstrap=50, cost=0.4
    )
    np.testing.assert_allclose(by_share.value[:-1], curve.value, atol=1e-9)
    default = cf.budget_curve(score, study.log, study.true_nuisances, by="spend", n_bootstrap=50, cost=0.4)
    assert default.budget[-1] == pytest.approx(
        cf.policy_value(np.ones(2000), study.log, study.true_nuisances, cost=0.4).spend.value
    )


def test_differences_are_paired(study, score):
    other = score + np.random.default_rng(0).normal(0, 0.02, len(score))
    options = {"budgets": SHARES, "n_bootstrap": 200, "only_positive": False, "cost": 0.4}
    first, second = (cf.budget_curve(s, study.log, study.true_nuisances, **options) for s in (score, other))
    difference = cf.budget_curve_difference(score, other, study.log, study.true_nuisances, **options)
    np.testing.assert_allclose(difference.value, first.value - second.value, atol=1e-12)
    assert difference.area == pytest.approx(first.area - second.area)
    assert difference.area_standard_error < 0.5 * first.area_standard_error
    assert difference.standard_error[-1] < 1e-12  # both treat everyone
    same = cf.budget_curve_difference(score, score, study.log, study.true_nuisances, **options)
    assert same.area == same.area_standard_error == 0


def test_neither_threads_nor_copies_change_it_and_the_seed_does(study, score):
    def errors(log, nuisances, score, **options):
        return cf.budget_curve(score, log, nuisances, cost=0.4, n_bootstrap=60, **options).standard_error

    one = errors(study.log, study.true_nuisances, score, n_jobs=1)
    np.testing.assert_array_equal(one, errors(study.log, study.true_nuisances, score, n_jobs=3))
    assert not np.array_equal(one, errors(study.log, study.true_nuisances, score, seed=1))
    twice = np.repeat(np.arange(2000), 2)
    log, truth = study.log, study.true_nuisances
    copied = cf.IncentiveLog(log.x[twice], log.t[twice], log.c[twice], log.y[twice])
    nuisances = cf.LogNuisances(
        *(getattr(truth, name)[twice] for name in list(vars(truth))[:5]), propensity_is_known=True
    )
    np.testing.assert_allclose(errors(copied, nuisances, score[twice], clusters=twice), one, atol=1e-9)
    assert (errors(copied, nuisances, score[twice])[5:] < 0.85 * one[5:]).all()


def true_curve(score, scenario="coupon"):
    order = np.argsort(-score)
    reward = strata_probabilities() @ stratum_rewards(scenario, 0.4)
    heights = np.concatenate([[0], np.cumsum(reward[order])]) / len(POINTS)
    return np.interp(SHARES, np.linspace(0, 1, len(POINTS) + 1), heights)


def test_pointwise_and_uniform_bands_cover_the_true_curve():
    n_replications = 200
    # Strictly different at the 32 points, so that the true ranking has no ties.
    by_point = strata_probabilities() @ np.array([0, 0, 0, 1.0, -0.4])
    truth = true_curve(by_point)
    pointwise, uniform, best = [], 0, 0
    for seed in range(n_replications):
        study = cf.simulated_features(1500, 1000 + seed)
        curve = cf.budget_curve(
            by_point[study.point],
            study.log,
            study.true_nuisances,
            budgets=SHARES,
            only_positive=False,
            n_bootstrap=150,
            seed=seed,
            cost=0.4,
        )
        pointwise.append((curve.lower <= truth + 1e-12) & (truth <= curve.upper + 1e-12))
        uniform += bool(
            ((curve.lower_uniform <= truth + 1e-12) & (truth <= curve.upper_uniform + 1e-12)).all()
        )
        point = curve.best()
        best += point.earliest <= SHARES[truth.argmax()] <= point.latest
    low, high = binomial_range(n_replications, 0.95, probability=1 - 0.01 / 20)
    rates = np.mean(pointwise, axis=0)[1:]
    assert ((low <= rates) & (rates <= high)).all(), rates
    low, high = binomial_range(n_replications, 0.95)
    assert low <= uniform / n_replications <= high, uniform
    assert best / n_replications >= low, best


def test_bad_input_is_refused(study, score):
    log, truth = study.log, study.true_nuisances
    with pytest.raises(InputError, match="score: expected shape"):
        cf.budget_curve(score[:5], log, truth, cost=0.4)
    with pytest.raises(InputError, match=r"score: expected finite numbers, found nan .*row 3"):
        cf.budget_curve(np.where(np.arange(2000) == 3, np.nan, score), log, truth, cost=0.4)
    for budgets in ([0.5], [0.5, 0.2], [0, 1.5], [-0.1, 0.5]):
        with pytest.raises(InputError, match="budgets"):
            cf.budget_curve(score, log, truth, budgets=budgets, cost=0.4)
    with pytest.raises(InputError, match=r"payments.*cost above 0"):
        cf.budget_curve(score, log, truth, by="spend", cost=0.0)
    with pytest.raises(InputError, match="budgets"):
        cf.budget_curve(score, log, truth, by="spend", budgets=[0, np.inf], cost=0.4)
    with pytest.raises(UnknownNameError, match="by"):
        cf.budget_curve(score, log, truth, by="euro", cost=0.4)
    with pytest.raises(InputError, match="n_bootstrap"):
        cf.budget_curve(score, log, truth, n_bootstrap=10, cost=0.4)
    with pytest.raises(InputError, match="level"):
        cf.budget_curve(score, log, truth, level=1.0, cost=0.4)
    with pytest.raises(InputError, match="clusters"):
        cf.budget_curve(score, log, truth, clusters=np.zeros(2000), cost=0.4)


def test_without_ties_each_point_is_the_value_of_the_policy_that_allocate_gives(study, score):
    apart = score + np.random.default_rng(0).normal(0, 1e-6, len(score))
    curve = cf.budget_curve(apart, study.log, study.true_nuisances, budgets=SHARES, n_bootstrap=50, cost=0.4)
    for k, share in enumerate(SHARES):
        treat = cf.allocate(apart, round(share, 2))
        value = cf.policy_value(treat, study.log, study.true_nuisances, cost=0.4)
        assert curve.value[k] == pytest.approx(value.value, abs=1e-9)
        assert curve.spend[k] == pytest.approx(value.spend.value, abs=1e-9)


@pytest.mark.parametrize("by", ["share", "spend"])
def test_a_constant_score_earns_its_share_of_treating_everyone_in_any_order_of_the_rows(study, by):
    """A log sorted by its outcome would otherwise have the first converters treated first."""
    log, means = study.log, study.true_nuisances
    order = np.lexsort((log.t, -log.y))
    in_order = cf.LogNuisances.from_means(
        means.propensity[order],
        {name: mean[order] for name, mean in means.means().items()},
        propensity_is_known=True,
    )
    options = {"cost": 0.4, "by": by, "n_bootstrap": 50}
    curve = cf.budget_curve(np.ones(2000), log.take(order), in_order, **options)
    everyone = cf.policy_value(np.ones(2000), log, means, cost=0.4).value
    np.testing.assert_allclose(curve.value, everyone * np.linspace(0, 1, 51), atol=1e-12)
    shuffled = cf.budget_curve(np.ones(2000), log, means, **options)
    np.testing.assert_allclose(curve.value, shuffled.value, atol=1e-12)


def test_money_once_spent_is_not_earned_back():
    """Scores of payments can be negative; the budget is reached where their sum first reaches it."""
    ranking = Ranking([3, 2, 1], np.ones(3), np.array([2.0, -1.5, 1.0]), only_positive=True)
    value, _, share = ranking.at(np.array([0.0, 0.4]), "spend", np.ones(3))
    np.testing.assert_allclose(share, [0, 0.2])  # 0.4 of 2 / 3 a unit, reached within the first unit
    np.testing.assert_allclose(value, [0, 0.2])

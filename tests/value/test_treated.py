"""Shares and values among the treated: identities, truth, coverage, robustness."""

import numpy as np
import pytest
from scipy import stats

import cfmtl_lib as cf
from cfmtl_lib import value
from cfmtl_lib.datasets.simulation_features import POINTS, propensities, strata_probabilities
from cfmtl_lib.errors import InputError

TRUTH = (propensities() / propensities().sum()) @ strata_probabilities()
"""Shares among the treated of the simulated population."""


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(6000, seed=11)


def constant(nuisances, **changes):
    fields = {
        name: getattr(nuisances, name)
        for name in (
            "propensity",
            "converted_treated",
            "converted_untreated",
            "collected_treated",
            "collected_and_converted_treated",
        )
    }
    return cf.LogNuisances(**(fields | changes))


def test_shares_sum_to_one_and_treated_means_are_plain_means(study):
    shares = value.treated_shares(study.log, study.true_nuisances)["value"]
    assert abs(shares.sum() - 1) < 1e-9
    log, t = study.log, study.log.t == 1
    assert abs(shares["coupon taker"] - ((log.c == 1) & (log.y == 0))[t].mean()) < 1e-9
    assert abs(shares["never taker"] - ((log.c == 0) & (log.y == 1))[t].mean()) < 1e-9
    assert abs(shares["never buyer"] - ((log.c == 0) & (log.y == 0))[t].mean()) < 1e-9
    errors = value.treated_shares(study.log, study.true_nuisances)["standard_error"]
    for name in ("never buyer", "never taker", "coupon taker"):  # plain shares have the error of a share
        expected = np.sqrt(shares[name] * (1 - shares[name]) / t.sum())
        assert errors[name] == pytest.approx(expected, rel=1e-3)
    both = shares["coupon buyer"] + shares["always buyer"]
    assert abs(both - (log.c * log.y)[t].mean()) < 1e-9


def test_the_reward_of_everyone_is_that_of_the_shares(study):
    everyone = np.ones(len(study.log), dtype=bool)
    shares = value.treated_shares(study.log, study.true_nuisances)["value"].to_numpy()
    for scenario in cf.SCENARIOS:
        found = value.treated_value(everyone, study.log, study.true_nuisances, scenario=scenario, cost=0.3)
        assert abs(found.value - shares @ cf.stratum_rewards(scenario, 0.3)) < 1e-9
        euros = value.treated_value(
            everyone, study.log, study.true_nuisances, scenario=scenario, cost=3.0, conversion_value=13.0
        )
        assert abs(euros.value - 10 * found.value) < 1e-9


def test_a_difference_is_paired(study):
    rng = np.random.default_rng(0)
    one = rng.random(len(study.log)) < 0.5
    other = one ^ (rng.random(len(study.log)) < 0.02)
    ask = lambda one, other=None: value.treated_value(  # noqa: E731
        one, study.log, study.true_nuisances, other=other, cost=0.4
    )
    gap = ask(one, other)
    assert abs(gap.value - (ask(one).value - ask(other).value)) < 1e-9
    assert gap.standard_error < 0.5 * ask(one).standard_error
    assert ask(one, one).value == 0 == ask(one, one).standard_error


def test_constant_nuisances_give_the_difference_of_means(study):
    log = study.log
    plain = value.treated_shares(
        log,
        constant(
            study.true_nuisances, propensity=np.full(6000, log.t.mean()), converted_untreated=np.zeros(6000)
        ),
    )
    difference = log.y[log.t == 1].mean() - log.y[log.t == 0].mean()
    assert abs(plain.loc["coupon buyer", "value"] - difference) < 1e-9


def test_estimates_are_near_the_truth_with_one_nuisance_wrong():
    half = np.full(40_000, 0.5)
    for seed in range(3):
        study = cf.simulated_features(40_000, seed=seed)
        for wrong in ({}, {"propensity": half}, {"converted_untreated": half}):
            shares = value.treated_shares(study.log, constant(study.true_nuisances, **wrong))
            z = (shares["value"] - TRUTH) / shares["standard_error"]
            assert z.abs().max() < 3.5
    study = cf.simulated_features(800_000, seed=5)  # confounding is weak here: it takes rows to see it
    half = np.full(800_000, 0.5)
    both = constant(study.true_nuisances, propensity=half, converted_untreated=half)
    shares = value.treated_shares(study.log, both)
    assert (
        abs(shares.loc["coupon buyer", "value"] - TRUTH[3]) > 5 * shares.loc["coupon buyer", "standard_error"]
    )


def test_intervals_cover():
    policy = POINTS[:, 0] > 0
    worth = strata_probabilities() @ cf.stratum_rewards("coupon", 0.4)
    truth = (propensities() * policy * worth).sum() / propensities().sum()
    covered = {"share": 0, "value": 0}
    replications = 400
    for seed in range(replications):
        study = cf.simulated_features(1500, seed=1000 + seed)
        row = value.treated_shares(study.log, study.true_nuisances).loc["coupon buyer"]
        covered["share"] += row["lower"] <= TRUTH[3] <= row["upper"]
        found = value.treated_value(policy[study.point], study.log, study.true_nuisances, cost=0.4)
        covered["value"] += found.lower <= truth <= found.upper
    low, high = stats.binom.interval(0.999, replications, 0.95)
    for name, count in covered.items():
        assert low <= count <= high, (name, count)


def test_clusters_of_copies_count_once(study):
    twice = study.log.take(np.repeat(np.arange(6000), 2))
    nuisances = constant(
        study.true_nuisances,
        **{
            name: np.repeat(getattr(study.true_nuisances, name), 2)
            for name in (
                "propensity",
                "converted_treated",
                "converted_untreated",
                "collected_treated",
                "collected_and_converted_treated",
            )
        },
    )
    once = value.treated_shares(study.log, study.true_nuisances)["standard_error"]
    together = value.treated_shares(twice, nuisances, clusters=np.repeat(np.arange(6000), 2))[
        "standard_error"
    ]
    np.testing.assert_allclose(together, once, rtol=1e-3)


def test_effect_on_an_outcome_of_ones_own(study):
    n = study.true_nuisances
    by_shares = value.treated_shares(study.log, n).loc["coupon buyer"]
    effect = value.treated_effect(study.log.y, n.converted_untreated, study.log, n)
    assert abs(effect.value - by_shares["value"]) < 1e-9
    assert abs(effect.standard_error - by_shares["standard_error"]) < 1e-9
    placebo = np.random.default_rng(3).random(6000)
    nothing = value.treated_effect(placebo, np.full(6000, 0.5), study.log, n)
    assert abs(nothing.z) < 3


def test_clipping_is_counted_and_ones_are_refused(study):
    near_one = np.where(np.arange(6000) < 100, 0.9999, study.true_nuisances.propensity)
    scores = value.treated_scores(study.log, constant(study.true_nuisances, propensity=near_one))
    assert scores.n_clipped == 100 and scores.odds.max() <= 99 + 1e-9
    untreated = int(np.flatnonzero(study.log.t == 0)[0])
    one = study.true_nuisances.propensity.copy()
    one[untreated] = 1.0
    with pytest.raises(InputError, match=rf"below 1 for untreated rows.*row {untreated}"):
        value.treated_scores(study.log, constant(study.true_nuisances, propensity=one), clip=0.0)
    with pytest.raises(InputError, match="clip"):
        value.treated_scores(study.log, study.true_nuisances, clip=0.5)
    with pytest.raises(InputError, match="rows, as the log"):
        value.treated_scores(study.log.take(np.arange(100)), study.true_nuisances)
    with pytest.raises(InputError, match="outcome"):
        value.treated_effect([1.0], [1.0], study.log, study.true_nuisances)

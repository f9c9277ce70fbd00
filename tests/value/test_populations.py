"""Means over all units, over overlap-weighted ones and over those of moderate propensity."""

from dataclasses import replace

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.datasets.simulation_features import POINTS, propensities, strata_probabilities
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.policy.rewards import stratum_rewards
from cfmtl_lib.strata import COUPON_BUYER
from cfmtl_lib.value.scores import crump_bound, fitted_scores, population_of, unit_scores


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(8000, seed=5)


def truth(weight, scenario="coupon"):
    return float(np.average(strata_probabilities() @ stratum_rewards(scenario, 0.4), weights=weight))


def weights(name):
    e = propensities()
    if name == "overlap":
        return e * (1 - e)
    bound = crump_bound(e)
    return ((e >= bound) & (e <= 1 - bound)).astype(float)


@pytest.mark.parametrize("name", ["overlap", "trimmed"])
@pytest.mark.parametrize("known", [True, False])
def test_values_are_those_of_their_population(study, name, known):
    nuisances = replace(study.true_nuisances, propensity_is_known=known)
    everyone = np.ones(len(study.log))
    value = cf.policy_value(everyone, study.log, nuisances, cost=0.4, population=name)
    assert abs(value.value - truth(weights(name))) < 3 * value.standard_error
    shares = cf.strata_shares(study.log, nuisances, population=name)
    share = np.average(strata_probabilities()[:, COUPON_BUYER], weights=weights(name))
    assert abs(shares["value"].iloc[COUPON_BUYER] - share) < 3 * shares["standard_error"].iloc[COUPON_BUYER]
    assert shares["value"].sum() == pytest.approx(1)


def test_overlap_weights_are_those_of_units_that_could_go_either_way():
    e = np.array([0.02, 0.5, 0.98])
    log = cf.IncentiveLog([[0.0], [1.0], [2.0]], [0, 1, 1], [0, 0, 0], [0, 1, 1])
    nuisances = cf.LogNuisances(e, *[[0.5] * 3] * 3, [0.1] * 3)
    among = population_of("overlap", log, nuisances)
    assert among.weight.tolist() == pytest.approx([0.0196, 0.25, 0.0196])
    assert among.correction.tolist() == pytest.approx([0.96 * -0.02, 0.0, -0.96 * 0.02])
    scores, means = unit_scores(log, nuisances).moments[:, 0], fitted_scores(log, nuisances).moments[:, 0]
    mean = among.linearised(scores, means).mean()
    top = (among.weight * scores + among.correction * means).sum()
    assert mean == pytest.approx(top / (among.weight + among.correction).sum(), abs=1e-12)


def test_the_value_over_everyone_is_as_before(study):
    everyone = np.ones(len(study.log))
    value = cf.policy_value(everyone, study.log, study.true_nuisances, cost=0.4)
    scores = unit_scores(study.log, study.true_nuisances).reward("coupon", 0.4)
    assert value.value == pytest.approx(scores.mean(), abs=1e-12)
    assert value.total == pytest.approx(8000 * value.value)


def test_intervals_cover_where_propensities_are_estimated_by_frequencies():
    """The correction counts: without it the errors of overlap-weighted means would be wrong."""
    covered = []
    for seed in range(150):
        study = cf.simulated_features(1500, seed=1000 + seed)
        t, point = study.log.t, study.point
        n_at, treated_at = np.bincount(point, minlength=32), np.bincount(point, weights=t, minlength=32)
        fitted = ((treated_at + 0.5) / (n_at + 1))[point]
        nuisances = replace(study.true_nuisances, propensity=fitted, propensity_is_known=False)
        value = cf.policy_value(np.ones(1500), study.log, nuisances, cost=0.4, population="overlap")
        covered.append(value.lower <= truth(weights("overlap")) <= value.upper)
    rate = np.mean(covered)
    assert 0.90 <= rate <= 0.99  # 99.9 % of 150 right intervals of 95 %


def test_totals_are_for_everyone(study):
    value = cf.policy_value(
        np.ones(len(study.log)), study.log, study.true_nuisances, cost=0.4, population="overlap"
    )
    assert "among units weighted by overlap" in str(value)
    with pytest.raises(InputError, match="total: expected a mean over all units"):
        _ = value.total
    with pytest.raises(UnknownNameError, match="population"):
        cf.policy_value(np.ones(len(study.log)), study.log, study.true_nuisances, cost=0.4, population="x")


def test_the_bound_of_trimming_solves_its_equation():
    e = np.random.default_rng(0).beta(0.5, 0.5, 20_000)
    bound = crump_bound(e)
    inside = e[(e >= bound) & (e <= 1 - bound)]
    assert 1 / (bound * (1 - bound)) == pytest.approx(2 * (1 / (inside * (1 - inside))).mean(), rel=1e-3)
    assert crump_bound(np.array([0.0, 1.0])) == 0.5
    assert crump_bound(propensities()) == 0.0 and len(POINTS) == 32

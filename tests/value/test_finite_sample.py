"""The finite-sample bound: holds at least as often as announced, and refuses what it cannot promise."""

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.value import reward_lower_bound, unit_scores

LEAST = 0.18


def policy(study):
    return study.strata_probability[:, 3] > 0.15


@pytest.mark.parametrize("scenario", cf.SCENARIOS)
def test_it_holds_and_gets_tighter_with_more_rows(scenario):
    gaps, held = {}, []
    for n in (500, 5000):
        gaps[n] = []
        for seed in range(200):
            study = cf.simulated_features(n, seed)
            bound = reward_lower_bound(
                policy(study),
                study.log,
                study.true_nuisances,
                least_propensity=LEAST,
                scenario=scenario,
                cost=0.4,
            )
            gaps[n].append(study.true_value(policy(study), scenario, 0.4) - bound.bound)
        held.append(np.mean(np.array(gaps[n]) >= 0))
    assert min(held) >= 0.95  # it is far from tight: a failure in twenty would be a mistake
    assert np.mean(gaps[5000]) < 0.4 * np.mean(gaps[500])


def test_scores_stay_inside_the_range_that_is_claimed():
    rng = np.random.default_rng(0)
    study = cf.simulated_features(3000, 1)
    e = np.clip(rng.random(3000), LEAST, 1 - LEAST)
    e[:40] = np.repeat([LEAST, 1 - LEAST], 20)
    means = [rng.integers(0, 2, 3000).astype(float) for _ in range(3)]
    for scenario in cf.SCENARIOS:
        nuisances = cf.LogNuisances(e, means[0], means[1], means[2], means[0] * means[2], True)
        bound = reward_lower_bound(
            np.ones(3000), study.log, nuisances, least_propensity=LEAST, scenario=scenario, cost=0.4
        )
        score = unit_scores(study.log, nuisances).reward(scenario, 0.4)
        assert score.max() - min(score.min(), 0) <= bound.score_range + 1e-9
        assert score.max() - score.min() > 0.7 * bound.score_range  # nor is it far too long


def test_terms_by_hand():
    study = cf.simulated_features(1000, 1)
    one = reward_lower_bound(policy(study), study.log, study.true_nuisances, least_propensity=LEAST, cost=0.4)
    assert one.bound == one.estimate - one.spread - one.range_term
    value = cf.policy_value(policy(study), study.log, study.true_nuisances, cost=0.4)
    assert one.estimate == pytest.approx(value.value, abs=1e-12)
    log_term = np.log(2 / 0.05)
    assert one.spread == pytest.approx(value.standard_error * np.sqrt(2 * log_term), rel=1e-9)
    assert one.range_term == pytest.approx(7 * one.score_range * log_term / (3 * 999), rel=1e-9)
    many = reward_lower_bound(
        policy(study), study.log, study.true_nuisances, least_propensity=LEAST, n_policies=20, cost=0.4
    )
    assert many.spread == pytest.approx(value.standard_error * np.sqrt(2 * np.log(40 / 0.05)), rel=1e-9)


def test_what_it_cannot_promise_is_refused():
    study = cf.simulated_features(1000, 1)
    truth = study.true_nuisances
    fitted = cf.LogNuisances(*(getattr(truth, name) for name in list(vars(truth))[:5]))
    options = {"least_propensity": LEAST, "cost": 0.4}
    with pytest.raises(InputError, match="known propensities, found estimated"):
        reward_lower_bound(policy(study), study.log, fitted, **options)
    with pytest.raises(InputError, match=r"at most 0\.18"):
        reward_lower_bound(policy(study), study.log, truth, least_propensity=0.3, cost=0.4)
    for name, bad in (("least_propensity", 0.7), ("confidence", 1.0), ("n_policies", 0)):
        with pytest.raises(InputError, match=name):
            reward_lower_bound(policy(study), study.log, truth, **(options | {name: bad}))

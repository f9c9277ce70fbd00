"""Unit scores: the reward identity, and unbiasedness over the draw of the treatment, both to 1e-9."""

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.nuisances.moments import MOMENTS, LogNuisances
from cfmtl_lib.policy.rewards import stratum_rewards
from cfmtl_lib.strata import POTENTIAL_OUTCOMES, observe
from cfmtl_lib.value.scores import net_means, net_outcome, unit_scores

N = 400


def as_log(stratum, treated, propensity=None):
    collected, converted = observe(stratum, treated)
    return cf.IncentiveLog(np.zeros((len(stratum), 1)), treated, collected, converted, propensity)


@pytest.fixture
def drawn():
    """Strata, propensities and any four means: nothing about them is right but the propensity."""
    rng = np.random.default_rng(0)
    means = {name: rng.uniform(0, 1, N) for name in MOMENTS}
    return rng.integers(0, 5, N).astype(np.int8), rng.uniform(0.02, 0.98, N), means


@pytest.mark.parametrize("scenario", cf.SCENARIOS)
@pytest.mark.parametrize("cost", [0.0, 0.4, 2.0])
@pytest.mark.filterwarnings("ignore::cfmtl_lib.errors.UnitWarning")
def test_the_reward_is_the_uplift_of_one_observed_outcome_in_every_stratum(scenario, cost):
    strata = np.arange(5, dtype=np.int8)
    arms = []
    for t in (0, 1):
        log = as_log(np.tile(strata, 2), np.repeat([t, 1 - t], 5))  # a log needs both arms
        arms.append(net_outcome(log, scenario, cost)[:5])
    np.testing.assert_allclose(arms[1] - arms[0], stratum_rewards(scenario, cost), atol=1e-12)


def test_scores_average_to_the_truth_over_the_draw_of_the_treatment_whatever_the_means(drawn):
    stratum, e, means = drawn
    nuisances = LogNuisances.from_means(e, means, propensity_is_known=True)
    first = np.arange(N) % 2  # every row once in each arm
    averages = 0
    for t in (first, 1 - first):
        scores = unit_scores(as_log(stratum, t), nuisances)
        averages = averages + np.where(t == 1, e, 1 - e)[:, None] * scores.moments
    _, c1, y0, y1 = POTENTIAL_OUTCOMES[stratum].T
    np.testing.assert_allclose(averages, np.stack([y1, y0, c1, c1 * y1], axis=1), atol=1e-9)


def test_with_means_that_know_every_outcome_the_scores_are_the_truth_whatever_the_propensity(drawn):
    stratum, e, _ = drawn
    _, c1, y0, y1 = POTENTIAL_OUTCOMES[stratum].T
    known = LogNuisances(e, y1, y0, c1, c1 * y1)
    scores = unit_scores(as_log(stratum, np.arange(N) % 2), known)
    np.testing.assert_allclose(scores.strata(), np.eye(5)[stratum], atol=1e-9)
    for scenario in cf.SCENARIOS:
        np.testing.assert_allclose(
            scores.reward(scenario, 0.4), stratum_rewards(scenario, 0.4)[stratum], atol=1e-9
        )


@pytest.mark.parametrize("scenario", cf.SCENARIOS)
def test_reward_scores_are_those_of_the_strata_and_of_the_net_outcome(drawn, scenario):
    stratum, e, means = drawn
    log, nuisances = as_log(stratum, np.arange(N) % 2), LogNuisances.from_means(e, means)
    scores = unit_scores(log, nuisances, clip=0.0)
    reward = scores.reward(scenario, 0.4)
    np.testing.assert_allclose(reward, scores.strata() @ stratum_rewards(scenario, 0.4), atol=1e-9)
    g1, g0 = net_means(log, nuisances, scenario, 0.4)
    w = net_outcome(log, scenario, 0.4)
    aipw = g1 - g0 + log.t * (w - g1) / e - (1 - log.t) * (w - g0) / (1 - e)
    np.testing.assert_allclose(reward, aipw, atol=1e-9)


def test_clipping_is_counted_and_off_for_known_propensities(drawn):
    stratum, e, means = drawn
    e = e.copy()
    e[:3] = [0.001, 0.999, 0.01]
    log = as_log(stratum, np.arange(N) % 2)
    assert unit_scores(log, LogNuisances.from_means(e, means)).n_clipped == 2
    assert unit_scores(log, LogNuisances.from_means(e, means, propensity_is_known=True)).n_clipped == 0
    clipped = unit_scores(log, LogNuisances.from_means(e, means), clip=0.1)
    assert clipped.propensity.min() == 0.1 and clipped.propensity.max() == 0.9
    assert clipped.n_clipped == ((e < 0.1) | (e > 0.9)).sum()


def test_bad_nuisances_are_refused(drawn):
    stratum, e, means = drawn
    log = as_log(stratum, np.arange(N) % 2)
    with pytest.raises(InputError, match=r"propensity: expected values in \[0, 1\], found 1.5 .*row 4"):
        LogNuisances.from_means(np.where(np.arange(N) == 4, 1.5, e), means)
    with pytest.raises(InputError, match="collected_treated: expected finite numbers"):
        LogNuisances.from_means(e, means | {"collected_treated": np.full(N, np.nan)})
    with pytest.raises(InputError, match="shape"):
        LogNuisances.from_means(e, means | {"collected_treated": np.zeros(3)})
    for wrong in (-0.2, 1.01):
        with pytest.raises(InputError, match=r"converted_untreated: expected values in \[0, 1\].*row 2"):
            LogNuisances.from_means(
                e, means | {"converted_untreated": np.where(np.arange(N) == 2, wrong, 0.5)}
            )
    with pytest.raises(InputError, match="overlap"):
        unit_scores(log, LogNuisances.from_means(np.where(np.arange(N) == 4, 0.0, e), means), clip=0.0)
    with pytest.raises(InputError, match=f"{N} rows"):
        unit_scores(log, LogNuisances(*[np.full(3, 0.5)] * 5))
    with pytest.raises(InputError, match="clip"):
        unit_scores(log, LogNuisances.from_means(e, means), clip=0.5)
    with pytest.raises(UnknownNameError):
        unit_scores(log, LogNuisances.from_means(e, means)).spend("voucher", 0.4)

"""Numbers of the checks and bounds, worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import cfmtl_lib as cf
from cfmtl_lib import value
from cfmtl_lib.nuisances.moments import LogNuisances


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(1200, seed=6)


def test_the_slack_of_groups_is_averaged_by_their_rows():
    """In the last quarter of the rows, a fifth of the untreated buy and none of the treated: off by 0.2."""
    n = 800
    group, t = np.repeat([0, 0, 0, 1], n // 4), np.tile([0, 1], n // 2)
    y = np.where(group == 1, (t == 0) & (np.arange(n) % 10 == 0), t == 1)
    log = cf.IncentiveLog(np.zeros((n, 1)), t, t * y, y)
    nothing = LogNuisances(np.full(n, 0.5), *[np.zeros(n)] * 4)
    table = value.strata_bounds(log, nothing, groups=group)
    assert table.attrs["slack"] == pytest.approx(0.25 * 0.2, abs=1e-12)
    np.testing.assert_allclose(table.loc["coupon buyer", ["lower", "upper"]].astype(float), 0.75, atol=1e-9)


@pytest.mark.parametrize("rho", [0.5, -0.5])
def test_the_sign_of_rho_does_not_matter_and_its_size_does(rho, study):
    def bound(r, **options):
        return value.confounding_bound(
            study.strata_probability[:, 3] > 0.15,
            study.log,
            study.true_nuisances,
            outcome_strength=r,
            treatment_strength=r,
            cost=0.1,
            **options,
        )

    worst, half = bound(0.1), bound(0.1, rho=rho)
    point = worst.estimate.value
    assert half.upper - point == pytest.approx((worst.upper - point) / 2)
    assert point - half.lower == pytest.approx((point - worst.lower) / 2)
    assert half.lower_limit < half.lower < half.upper < half.upper_limit
    assert point > 0
    assert bound(half.robustness_value, rho=rho).lower == pytest.approx(0, abs=1e-9)
    assert half.robustness_value > worst.robustness_value
    assert bound(half.robustness_value_limit, rho=rho).lower_limit == pytest.approx(0, abs=1e-4)


def test_a_value_of_zero_is_explained_by_nothing(study):
    nobody = np.zeros(len(study.log))
    bound = value.confounding_bound(
        nobody, study.log, study.true_nuisances, outcome_strength=0.1, treatment_strength=0.1, cost=0.1
    )
    assert (bound.estimate.value, bound.robustness_value, bound.robustness_value_limit) == (0, 0, 0)


# W lies in [0, 1 + c] but for cash that is collected and earns nothing: -c. Scores weigh by 1 / 0.15 at most.
@pytest.mark.parametrize(
    "scenario, longest", [("coupon", 2 * 1.4 / 0.15), ("cash", (1.4 + 0.4 + 1.8) / 0.15 - 0.4)]
)
@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_the_finite_bound_is_of_the_confidence_asked_for(confidence, scenario, longest, study):
    treat = study.strata_probability[:, 3] > 0.15
    bound = value.reward_lower_bound(
        treat,
        study.log,
        study.true_nuisances,
        least_propensity=0.15,
        scenario=scenario,
        cost=0.4,
        confidence=confidence,
        n_policies=3,
    )
    log_term = np.log(2 * 3 / (1 - confidence))
    error = cf.policy_value(
        treat, study.log, study.true_nuisances, scenario=scenario, cost=0.4
    ).standard_error
    assert bound.spread == pytest.approx(error * np.sqrt(2 * log_term))
    assert bound.range_term == pytest.approx(7 * bound.score_range * log_term / (3 * 1199))
    assert bound.score_range == pytest.approx(longest)


def test_frequencies_of_treatment_are_tested_with_a_degree_of_freedom_a_bin(study):
    by = np.random.default_rng(0).normal(study.true_nuisances.propensity)
    table = value.propensity_calibration(study.log, study.true_nuisances, by=by, n_bins=4)
    order = np.argsort(by)
    z = []
    for part in np.array_split(order, 4):
        e = study.true_nuisances.propensity[part]
        z.append((study.log.t[part].sum() - e.sum()) / np.sqrt((e * (1 - e)).sum()))
    np.testing.assert_allclose(table["z"], z, atol=1e-9)
    assert table.attrs["p_value"] == pytest.approx(stats.chi2(4).sf(np.square(z).sum()))


def test_errors_of_a_calibration_curve_are_those_of_its_bins():
    curve = value.calibration_curve([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], [0, 0, 1, 1, 0, 1], n_bins=2)
    expected = np.sqrt([2 / 9, 2 / 9]) / np.sqrt(3)
    pd.testing.assert_frame_equal(
        curve,
        pd.DataFrame(
            {"predicted": [0.2, 0.8], "observed": [1 / 3, 2 / 3], "standard_error": expected, "n": [3, 3]}
        ),
    )
    assert len(value.calibration_curve([0.1, 0.9], [0, 1], n_bins=2)) == 2

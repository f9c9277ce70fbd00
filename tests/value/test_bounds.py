"""Bounds on the shares: sharp, held against every vertex of what a log allows, points where identified."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

import cfmtl_lib as cf
from cfmtl_lib.datasets.simulation_features import means_of, strata_probabilities
from cfmtl_lib.errors import InputError
from cfmtl_lib.experiments.evaluation import monte_carlo
from cfmtl_lib.strata import strata_from_moments
from cfmtl_lib.value import bounds, share_ranges, strata_bounds
from cfmtl_lib.value.bounds import TYPES
from cfmtl_lib.value.estimates import strata_shares

CASES = [(True, True), (False, True), (True, False), (False, False)]
EQUATIONS = np.array(
    [[1, y1, y0, c1, c1 * y1] for c1, y0, y1 in TYPES], dtype=float
).T  # written out again, not taken from the library
OF_STRATUM = [TYPES.index(t) for t in ((0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 1))]


def allowed(exclusion, monotonicity):
    return [
        k
        for k, (c1, y0, y1) in enumerate(TYPES)
        if not (exclusion and c1 == 0 and y0 != y1) and not (monotonicity and (c1, y0, y1) == (1, 1, 0))
    ]


def drawn(exclusion, monotonicity, seed):
    shares = np.zeros(8)
    kept = allowed(exclusion, monotonicity)
    shares[kept] = np.random.default_rng(seed).dirichlet(np.full(len(kept), 0.7))
    return shares


def by_vertices(means, exclusion, monotonicity):
    """Least and largest share of each stratum over all vertices of the polytope of shares."""
    kept = allowed(exclusion, monotonicity)
    right = np.concatenate([[1.0], means])
    vertices = []
    for columns in combinations(kept, 5):
        part = EQUATIONS[:, columns]
        if abs(np.linalg.det(part)) > 1e-9:
            solution = np.linalg.solve(part, right)
            if (solution > -1e-9).all():
                shares = np.zeros(8)
                shares[list(columns)] = solution
                vertices.append(shares)
    return np.array(vertices)[:, OF_STRATUM]


@pytest.mark.parametrize(("exclusion", "monotonicity"), CASES)
@pytest.mark.parametrize("seed", range(6))
def test_ranges_are_sharp_and_hold_the_truth(exclusion, monotonicity, seed):
    shares = drawn(exclusion, monotonicity, seed)
    means = (EQUATIONS @ shares)[1:]
    ranges, slack = share_ranges(means, exclusion=exclusion, monotonicity=monotonicity)
    ends = np.array([(r.lower, r.upper) for r in ranges])
    vertices = by_vertices(means, exclusion, monotonicity)
    np.testing.assert_allclose(ends[:, 0], vertices.min(axis=0), atol=1e-9)
    np.testing.assert_allclose(ends[:, 1], vertices.max(axis=0), atol=1e-9)
    true = shares[OF_STRATUM]
    assert slack == 0 and (ends[:, 0] <= true + 1e-9).all() and (true <= ends[:, 1] + 1e-9).all()


@pytest.mark.parametrize("seed", range(5))
def test_all_assumptions_give_the_identified_point(seed):
    means = (EQUATIONS @ drawn(True, True, seed))[1:]
    ranges, _ = share_ranges(means)
    solved = strata_from_moments(*([value] for value in means))[0]
    for found, point in zip(ranges, solved, strict=True):
        assert found.lower == pytest.approx(point, abs=1e-9)
        assert found.upper == pytest.approx(point, abs=1e-9)


@pytest.mark.parametrize(("exclusion", "monotonicity"), CASES)
def test_slopes_are_those_of_the_ends(exclusion, monotonicity):
    means = (EQUATIONS @ drawn(exclusion, monotonicity, 1))[1:]
    options = {"exclusion": exclusion, "monotonicity": monotonicity}
    ranges, _ = share_ranges(means, **options)
    direction = (EQUATIONS @ drawn(exclusion, monotonicity, 2))[1:] - means  # stays possible
    moved, _ = share_ranges(means + 1e-6 * direction, **options)
    for before, after in zip(ranges, moved, strict=True):
        assert (after.lower - before.lower) / 1e-6 == pytest.approx(before.lower_slopes @ direction, abs=1e-5)
        assert (after.upper - before.upper) / 1e-6 == pytest.approx(before.upper_slopes @ direction, abs=1e-5)


def test_impossible_means_are_moved_as_little_as_possible_and_said():
    # More buyers without the incentive than with it: monotonicity cannot hold.
    ranges, slack = share_ranges([0.4, 0.5, 0.7, 0.3])
    assert slack == pytest.approx(0.1, abs=1e-9)
    assert all(-1e-12 <= r.lower <= r.upper <= 1 for r in ranges)
    assert share_ranges([0.4, 0.5, 0.7, 0.3], monotonicity=False)[1] == 0
    with pytest.raises(InputError, match="means: expected finite numbers, found nan"):
        share_ranges([0.4, 0.5, np.nan, 0.3])


def test_bounds_of_a_log_are_the_shares_under_all_assumptions_and_widen_without():
    study = cf.simulated_features(4000, seed=1)
    shares = strata_shares(study.log, study.true_nuisances)
    full = strata_bounds(study.log, study.true_nuisances)
    np.testing.assert_allclose(full["lower"], shares["value"], atol=1e-9)
    np.testing.assert_allclose(full["upper_se"], shares["standard_error"], atol=1e-9)
    loose = strata_bounds(study.log, study.true_nuisances, monotonicity=False)
    groups = study.log.x[:, 0] + 2 * study.log.x[:, 1]
    tight = strata_bounds(study.log, study.true_nuisances, monotonicity=False, groups=groups)
    assert (loose["lower"] <= full["lower"] + 1e-9).all() and (loose["upper"] >= full["upper"] - 1e-9).all()
    width = (tight["upper"] - tight["lower"]).sum()
    assert 0 < width < (loose["upper"] - loose["lower"]).sum()
    with pytest.raises(InputError, match="groups"):
        strata_bounds(study.log, study.true_nuisances, groups=[1])
    with pytest.raises(InputError, match="at least 100 rows in each group"):
        strata_bounds(study.log, study.true_nuisances, groups=np.arange(4000) // 50)


@pytest.mark.parametrize("monotonicity", [True, False])
def test_limits_cover_every_share_that_the_means_allow(monotonicity):
    means = [value.mean() for value in means_of(strata_probabilities()).values()]
    ranges, _ = share_ranges(means, monotonicity=monotonicity)
    covered = np.zeros((5, 2))
    for seed in range(250):
        study = cf.simulated_features(1000, seed)
        table = strata_bounds(study.log, study.true_nuisances, monotonicity=monotonicity)
        for end, name in enumerate(("lower", "upper")):
            share = np.array([getattr(found, name) for found in ranges])
            covered[:, end] += (table["lower_limit"] <= share + 1e-9) & (share - 1e-9 <= table["upper_limit"])
    low, high = monte_carlo.binomial_range(250, 0.95, probability=1 - 0.01 / 10)
    ends = np.array([(found.lower, found.upper) for found in ranges])
    at_zero = ends < 1e-9  # no share is negative, so such an end is always covered
    assert (low <= covered / 250).all() and (covered[~at_zero] / 250 <= high).all(), covered / 250


@pytest.mark.parametrize("width", [0.01, 0.5, 1.0, 5.0])
def test_the_reach_of_limits_solves_its_equation(width):
    reach = bounds._imbens_manski(width, 1.0, 0.8, 0.95)
    assert abs(stats.norm.cdf(reach + width) - stats.norm.cdf(-reach) - 0.95) < 1e-9

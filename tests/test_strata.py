import numpy as np
import pytest

from cfmtl_lib.errors import InputError
from cfmtl_lib.policy.rewards import stratum_rewards
from cfmtl_lib.strata import (
    CELL_MEMBERSHIP,
    CELLS,
    POTENTIAL_OUTCOMES,
    STRATA,
    check_strata,
    observe,
    observed_cell,
    strata_from_moments,
)


def random_strata(n: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(5), size=n)


def test_potential_outcomes_satisfy_the_assumptions():
    c0, c1, y0, y1 = POTENTIAL_OUTCOMES.T
    assert (c0 == 0).all()
    assert (y1 == y0)[c1 == 0].all()  # exclusion
    assert (y1 >= y0)[c1 == 1].all()  # monotonicity
    assert len({tuple(row) for row in POTENTIAL_OUTCOMES.tolist()}) == len(STRATA)


def test_cells_match_the_protocol():
    expected = {
        (1, 0, 0): {"never buyer"},
        (1, 0, 1): {"never taker"},
        (1, 1, 0): {"coupon taker"},
        (1, 1, 1): {"coupon buyer", "always buyer"},
        (0, 0, 1): {"never taker", "always buyer"},
        (0, 0, 0): {"never buyer", "coupon taker", "coupon buyer"},
    }
    found = {
        cell: {STRATA[s] for s in np.flatnonzero(row)}
        for cell, row in zip(CELLS, CELL_MEMBERSHIP, strict=True)
    }
    assert found == expected


def test_identification_inverts_the_cell_equations():
    p = random_strata()
    cells = dict(zip(CELLS, CELL_MEMBERSHIP @ p.T, strict=True))
    solved = strata_from_moments(
        converted_treated=cells[1, 0, 1] + cells[1, 1, 1],
        converted_untreated=cells[0, 0, 1],
        collected_treated=cells[1, 1, 0] + cells[1, 1, 1],
        collected_and_converted_treated=cells[1, 1, 1],
    )
    np.testing.assert_allclose(solved, p, atol=1e-12)


def test_product_form_is_wrong_where_collection_and_conversion_depend():
    p = random_strata()
    mu1, kappa = p[:, [1, 3, 4]].sum(1), p[:, 2:].sum(1)
    solved = strata_from_moments(mu1, p[:, [1, 4]].sum(1), kappa, kappa * mu1)
    np.testing.assert_allclose(solved.sum(1), 1, atol=1e-12)
    assert np.abs(solved - p).max() > 0.05


@pytest.mark.parametrize("scenario, wasted", [("coupon", "c1y1"), ("cash", "c1")])
def test_reward_identity_stratum_by_stratum(scenario, wasted):
    cost = 0.4
    _, c1, y0, y1 = POTENTIAL_OUTCOMES.T.astype(float)
    identity = (1 + cost) * (y1 - y0) - cost * (c1 * y1 if wasted == "c1y1" else c1)
    np.testing.assert_allclose(identity, stratum_rewards(scenario, cost), atol=1e-12)


def test_observe_and_observed_cell_agree_with_membership():
    stratum = np.repeat(np.arange(5), 2)
    t = np.tile([0, 1], 5)
    c, y = observe(stratum, t)
    cell = observed_cell(t, c, y)
    assert (CELL_MEMBERSHIP[cell, stratum] == 1).all()


def test_observed_cell_refuses_collection_without_an_incentive():
    with pytest.raises(InputError, match=r"0 wherever treated is 0.*row 1"):
        observed_cell([1, 0], [1, 1], [0, 0])


@pytest.mark.parametrize(
    "scenario, cost, message",
    [
        ("gift", 0.4, "'coupon', 'cash'"),
        ("cash", -0.1, ">= 0"),
        ("cash", float("nan"), ">= 0"),
        ("cash", "x", ">= 0"),
    ],
)
def test_rewards_refuse_bad_input(scenario, cost, message):
    with pytest.raises(InputError, match=message):
        stratum_rewards(scenario, cost)


@pytest.mark.parametrize("stratum", [[0, 5], [-1], [0.5], [[0]]])
def test_strata_refuse_bad_indices(stratum):
    with pytest.raises(InputError, match="stratum: expected integers 0-4"):
        check_strata(stratum)

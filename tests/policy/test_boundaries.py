"""Values at a boundary: rewards of exactly 0, costs of 0, ties, sums that round."""

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.policy.allocation import threshold_policy

P = np.array([[0.1, 0.2, 0.3, 0.15, 0.25], [0.2, 0.2, 0.2, 0.3, 0.1]])


@pytest.mark.parametrize(
    "budget", [{"budget": 1.0}, {"number": 3}, {"money": 9.0, "spend": [0.0, 0.5, 0.0]}], ids=str
)
def test_a_reward_of_zero_gets_no_incentive(budget):
    assert cf.allocate([0.0, 0.2, -0.0], **budget).tolist() == [False, True, False]
    several = {"reward": [[0.0, -0.1], [0.2, 0.1], [-0.3, 0.0]]}
    if "spend" in budget:
        budget = budget | {"spend": [[0.0, 0.1], [0.5, 0.6], [0.1, 0.0]]}
    assert cf.allocate_arms(**several, **budget).tolist() == [-1, 0, -1]


def test_the_threshold_policy_gives_nothing_to_a_reward_of_zero():
    assert threshold_policy([0.0, 0.2, 0.0, -0.1], 1.0) == (pytest.approx([0, 1, 0, 0]), 0.0, 0.0)
    assert threshold_policy([0.0, 0.2, 0.0, -0.1], 0.25).probability.tolist() == [0, 1, 0, 0]


@pytest.mark.filterwarnings("ignore::cfmtl_lib.errors.UnitWarning")
def test_a_budget_that_all_but_covers_everyone_treats_the_last_in_part():
    found = threshold_policy(np.arange(1.0, 11.0), 0.95)
    assert (found.threshold, found.at_threshold) == (1.0, 0.5)
    assert found.probability.tolist() == [0.5] + [1.0] * 9


@pytest.mark.parametrize("scenario", cf.SCENARIOS)
def test_costs_of_zero_are_costs(scenario):
    free = [0.0, 0.4]
    np.testing.assert_allclose(
        cf.expected_reward(P, scenario, free),
        [P[0, 3], cf.expected_reward(P, scenario, 0.4)[1]],
        atol=1e-12,
    )
    assert cf.expected_spend(P, scenario, free)[0] == 0 < cf.expected_spend(P, scenario, free)[1]
    assert cf.expected_reward(P, scenario, [0.0, 0.0], conversion_value=0.0).tolist() == [0, 0]
    found = cf.expected_reward(P, scenario, free, conversion_value=[0.0, 0.4])
    np.testing.assert_allclose(found, [0, 0.4 * P[1, 3] - cf.expected_spend(P, scenario, 0.4)[1]])


def test_values_take_an_array_of_costs_of_zero():
    study = cf.simulated_features(400, seed=1)
    everyone = np.ones(400)
    free = cf.policy_value(everyone, study.log, study.true_nuisances, cost=np.zeros(400))
    assert free == cf.policy_value(everyone, study.log, study.true_nuisances, cost=0.0)
    assert free.spend.value == free.spend.standard_error == 0


def test_payments_that_add_up_to_the_money_fit():
    """0.1 three times is 0.30000000000000004 in floating point."""
    assert cf.allocate([3.0, 2.0, 1.0], money=0.3, spend=[0.1] * 3).all()
    assert (cf.allocate_arms([[3.0], [2.0], [1.0]], money=0.3, spend=[[0.1]] * 3) == 0).all()
    assert cf.allocate([3.0, 2.0, 1.0], money=0.2999, spend=[0.1] * 3).sum() == 2


def test_tied_rows_get_arms_in_their_order():
    assert cf.allocate_arms([[0.5, 0.1], [0.2, 0.5], [0.5, 0.4]], number=2).tolist() == [0, 1, -1]
    equal = {"spend": [[1.0], [1.0], [1.0]], "money": 2.0}
    assert cf.allocate_arms([[0.5], [0.5], [0.5]], **equal).tolist() == [0, 0, -1]


@pytest.mark.parametrize("gap", [1.0e-3, -1.0e-3])
def test_rows_have_to_sum_to_one(gap):
    wrong = P.copy()
    wrong[1, 0] += gap
    with pytest.raises(InputError, match=r"sum to 1.*row 1"):
        cf.expected_reward(wrong, "coupon", 0.4)
    wrong[1, 0] += gap / 20 - gap  # rounding
    assert np.isfinite(cf.expected_reward(wrong, "coupon", 0.4)).all()


def test_a_policy_without_an_answer_is_refused():
    study = cf.simulated_features(400, seed=1)
    treat = np.where(np.arange(400) == 7, np.nan, 1.0)
    with pytest.raises(InputError, match=r"treat: .*row 7"):
        cf.policy_value(treat, study.log, study.true_nuisances, cost=0.4)


def test_wasted_costs_are_those_of_the_scenario():
    treat, stratum = [True] * 5, [0, 1, 2, 3, 4]
    assert cf.count_outcomes(treat, stratum, "coupon", 0.0) == (1, 1, 3, 1.0)
    assert cf.count_outcomes(treat, stratum, "cash", 0.5) == (1, 2, 2, 0.0)
    assert cf.count_outcomes(np.ones(5), np.array(stratum, dtype=np.uint8), "cash", 0.5).reward == 0.0

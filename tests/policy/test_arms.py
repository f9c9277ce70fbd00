"""Budgets as share, number and money, with one incentive and with several: against linear programs."""

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, linprog, milp

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError


def draw(seed, n=30, k=3):
    rng = np.random.default_rng(seed)
    spend = rng.uniform(0, 1, (n, k)) * (rng.random((n, k)) > 0.1)
    return rng.normal(0.2, 0.5, (n, k)), spend


def earned(reward, spend, arm):
    rows = np.flatnonzero(arm >= 0)
    return reward[rows, arm[rows]].sum(), spend[rows, arm[rows]].sum()


@pytest.mark.parametrize("money", [0.0, 0.3, 2.0, 8.0, 1e6])
@pytest.mark.parametrize("seed", range(5))
def test_money_is_spent_as_the_linear_program_spends_it(seed, money):
    reward, spend = draw(seed)
    arm = cf.allocate_arms(reward, money=money, spend=spend)
    value, paid = earned(reward, spend, arm)
    assert paid <= money + 1e-9
    n, k = reward.shape
    one_a_row = np.kron(np.eye(n), np.ones(k))
    relaxed = linprog(
        -reward.ravel(),
        A_ub=np.vstack([one_a_row, spend.ravel()]),
        b_ub=np.append(np.ones(n), money),
        bounds=(0, 1),
    )
    assert value <= -relaxed.fun + 1e-9
    largest_step = np.maximum(reward, 0).max()
    assert value > -relaxed.fun - largest_step
    if money == 1e6:
        assert value == pytest.approx(-relaxed.fun)
        np.testing.assert_array_equal(arm, np.where(reward.max(1) > 0, reward.argmax(1), -1))


@pytest.mark.parametrize("seed", range(5))
def test_places_go_to_the_best_arm_of_the_best_rows(seed):
    reward, _ = draw(seed)
    arm = cf.allocate_arms(reward, number=7)
    assert (arm >= 0).sum() == 7
    whole = milp(
        -reward.ravel(),
        constraints=[
            LinearConstraint(np.kron(np.eye(30), np.ones(3)), ub=1),
            LinearConstraint(np.ones((1, 90)), ub=7),
        ],
        integrality=1,
        bounds=(0, 1),
    )
    assert earned(reward, reward, arm)[0] == pytest.approx(-whole.fun)
    np.testing.assert_array_equal(cf.allocate_arms(reward, budget=0.24), arm)  # 7 of 30


@pytest.mark.parametrize("seed", range(5))
def test_one_arm_is_the_policy_of_one_incentive(seed):
    reward, spend = draw(seed, k=1)
    for budget in ({"budget": 0.3}, {"number": 4}):
        np.testing.assert_array_equal(
            cf.allocate_arms(reward, **budget) == 0, cf.allocate(reward[:, 0], **budget)
        )
    one = cf.allocate(reward[:, 0], money=3.0, spend=spend[:, 0])
    np.testing.assert_array_equal(cf.allocate_arms(reward, money=3.0, spend=spend) == 0, one)
    assert spend[one, 0].sum() <= 3.0


def test_a_dearer_arm_is_taken_where_its_step_is_worth_it():
    """Steep first steps before flat second ones, whoever they belong to."""
    reward = np.array([[0.4, 0.6], [0.35, 0.9], [0.09, 0.1]])
    spend = np.array([[0.2, 0.6], [0.2, 0.5], [0.2, 0.3]])
    # Slopes: row 0: 2.0 then 0.5; row 1: from nothing to the dear arm 1.8; row 2: 0.45, then 0.1.
    for money, expected in ((0.2, [0, -1, -1]), (0.7, [0, 1, -1]), (1.1, [1, 1, -1]), (1.3, [1, 1, 0])):
        assert cf.allocate_arms(reward, money=money, spend=spend).tolist() == expected


def test_number_and_share_agree():
    reward = np.random.default_rng(0).normal(size=100)
    np.testing.assert_array_equal(cf.allocate(reward, number=29), cf.allocate(reward, 0.29))
    assert cf.allocate(reward, number=500).sum() == (reward > 0).sum()
    assert not cf.allocate(reward, number=0).any()


def test_what_costs_nothing_comes_first():
    treat = cf.allocate([0.1, 0.5, -1.0], money=0.0, spend=[0.0, 0.2, 0.0])
    assert treat.tolist() == [True, False, False]


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "one of budget .* found none"),
        ({"budget": 0.1, "number": 3}, "found budget and number"),
        ({"money": 1.0}, "given with money"),
        ({"budget": 0.5, "spend": [[0.1], [0.1]]}, "given with money"),
        ({"number": 1.5}, "whole number"),
        ({"number": -1}, "whole number"),
        ({"number": True}, "whole number"),
        ({"money": -1.0, "spend": [[0.1], [0.1]]}, "money: expected a finite number >= 0"),
        ({"money": 1.0, "spend": [[0.1]]}, "shape"),
        ({"money": 1.0, "spend": [[0.1], [-0.1]]}, r"spend: .*row 1"),
        ({"budget": 1.5}, "share"),
    ],
)
def test_bad_budgets_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        cf.allocate_arms([[0.3], [0.2]], **options)
    if "spend" in options:
        options = options | {"spend": np.ravel(options["spend"])}
    with pytest.raises(InputError, match=message):
        cf.allocate([0.3, 0.2], **options)


@pytest.mark.parametrize("reward", [[0.1], [[np.nan]], np.zeros((0, 2)), np.zeros((2, 0))])
def test_bad_rewards_are_refused(reward):
    with pytest.raises(InputError, match="reward"):
        cf.allocate_arms(reward, number=1)


P = np.array([[0.1, 0.2, 0.3, 0.15, 0.25], [0.2, 0.2, 0.2, 0.3, 0.1]])


@pytest.mark.parametrize("scenario", cf.SCENARIOS)
def test_rewards_with_a_cost_for_each_row_are_those_of_each_row(scenario):
    costs = [0.2, 0.7]
    rows = [cf.expected_reward(P[[k]], scenario, costs[k])[0] for k in range(2)]
    np.testing.assert_allclose(cf.expected_reward(P, scenario, costs), rows, rtol=0, atol=1e-12)
    # In money: a unit of the paper is a conversion net of its incentive.
    in_euros = cf.expected_reward(P, scenario, cost=3.0, conversion_value=13.0)
    np.testing.assert_allclose(in_euros, 10 * cf.expected_reward(P, scenario, 0.3), atol=1e-12)
    np.testing.assert_allclose(
        in_euros, 13 * P[:, 3] - cf.expected_spend(P, scenario, 3.0), rtol=0, atol=1e-12
    )


def test_spend_is_paid_on_redemption():
    np.testing.assert_allclose(cf.expected_spend(P, "coupon", 2.0), 2 * (P[:, 3] + P[:, 4]))
    np.testing.assert_allclose(cf.expected_spend(P, "cash", 2.0), 2 * P[:, 2:].sum(axis=1))


@pytest.mark.parametrize(
    "cost, message",
    [([0.1], r"shape \(2,\)"), ([0.1, -1.0], "row 1"), ([0.1, np.nan], "row 1"), (-1, "cost")],
)
def test_bad_costs_are_refused(cost, message):
    with pytest.raises(InputError, match=message):
        cf.expected_reward(P, "coupon", cost)
    with pytest.raises(InputError, match=message.replace("cost", "conversion_value")):
        cf.expected_reward(P, "coupon", 0.1, conversion_value=cost)


def test_values_take_a_cost_for_each_row_and_money():
    study = cf.simulated_features(3000, seed=1)
    everyone = np.ones(3000, dtype=bool)
    ask = lambda **options: cf.policy_value(everyone, study.log, study.true_nuisances, **options)  # noqa: E731
    one = ask(cost=0.3)
    assert ask(cost=np.full(3000, 0.3)) == one
    euros = ask(cost=3.0, conversion_value=13.0)
    assert euros.value == pytest.approx(10 * one.value) and euros.spend.value == pytest.approx(
        10 * one.spend.value
    )
    mixed = np.where(np.arange(3000) < 1500, 0.2, 0.6)
    low, high = ask(cost=0.2), ask(cost=0.6)
    assert min(low.value, high.value) < ask(cost=mixed).value < max(low.value, high.value)
    difference = cf.policy_value_difference(
        everyone, ~everyone, study.log, study.true_nuisances, cost=3.0, conversion_value=13.0
    )
    assert difference.value == pytest.approx(euros.value)

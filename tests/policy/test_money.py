"""Budgets in money are used up: rows and steps that do not fit are passed over for later ones."""

import itertools

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.policy.allocation import affordable


def plain_loop(reward, money, spend):
    treat, spent = np.zeros(len(reward), dtype=bool), 0.0
    with np.errstate(divide="ignore"):
        order = np.argsort(-reward / spend, kind="stable")
    for row in order:
        if reward[row] > 0 and spent + spend[row] <= money * (1 + 1e-12):
            treat[row], spent = True, spent + spend[row]
    return treat


def test_one_dear_row_does_not_stop_the_cheap_ones():
    reward, spend = np.r_[100.0, np.ones(99)], np.r_[60.0, np.ones(99)]
    treat = cf.allocate(reward, money=50, spend=spend)
    assert treat.sum() == 50 and not treat[0]
    assert (cf.allocate_arms(reward[:, None], money=50, spend=spend[:, None]) >= 0).sum() == 50


@pytest.mark.parametrize("money", [0.0, 0.5, 20, 100, 500, 1e9])
@pytest.mark.parametrize("seed", range(3))
def test_allocation_is_that_of_the_plain_loop(seed, money):
    rng = np.random.default_rng(seed)
    reward, spend = rng.gamma(2, 1, 500) - 0.5, rng.lognormal(0, 2.0, 500) * (rng.random(500) > 0.05)
    expected = plain_loop(reward, money, spend)
    np.testing.assert_array_equal(cf.allocate(reward, money=money, spend=spend), expected)
    arms = cf.allocate_arms(reward[:, None], money=money, spend=spend[:, None])
    np.testing.assert_array_equal(arms == 0, expected)
    assert spend[expected].sum() <= money * (1 + 1e-9)


def test_dear_and_cheap_payments_by_turns_are_those_of_the_plain_loop():
    rng = np.random.default_rng(0)
    for payments in (np.tile([3.0, 0.001], 1000), rng.pareto(0.5, 2000), np.linspace(5, 0, 2000)):
        spent, made = 0.0, []
        for payment in payments:
            made.append(spent + payment <= 10 * (1 + 1e-12))
            spent += payment * made[-1]
        assert affordable(payments, 10.0).tolist() == made


@pytest.mark.parametrize("seed", range(6))
def test_the_loss_is_less_than_the_reward_of_the_first_row_that_does_not_fit(seed):
    rng = np.random.default_rng(seed)
    reward, spend, money = rng.gamma(2, 1, 10), rng.lognormal(0, 1, 10), 3.0
    rows = np.array(list(itertools.product([0, 1], repeat=10)))
    best = (rows @ reward)[rows @ spend <= money].max()
    order = np.argsort(-reward / spend)
    does_not_fit = order[np.cumsum(spend[order]) > money][:1]
    earned = reward[cf.allocate(reward, money=money, spend=spend)].sum()
    assert best - reward[does_not_fit].sum() < earned <= best + 1e-12


def test_a_cheaper_incentive_is_given_where_the_best_one_does_not_fit():
    reward, spend = [[0.3, 1.0], [0.1, 0.1]], [[0.5, 0.6], [2.0, 2.0]]
    assert cf.allocate_arms(reward, money=0.5, spend=spend).tolist() == [0, -1]
    # The step to the dear incentive does not fit; no later step of the row is taken for it.
    assert cf.allocate_arms([[1.0, 1.8, 2.0]], money=1.2, spend=[[1.0, 2.0, 2.4]]).tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_no_incentive_that_fits_is_left(seed):
    rng = np.random.default_rng(seed)
    reward, spend, money = rng.normal(0.3, 0.5, (30, 3)), rng.lognormal(-1, 1, (30, 3)), 4.0
    arms = cf.allocate_arms(reward, money=money, spend=spend)
    given = np.flatnonzero(arms >= 0)
    paid, has = np.zeros(30), np.zeros(30)
    paid[given], has[given] = spend[given, arms[given]], reward[given, arms[given]]
    left = money - paid.sum()
    assert left >= -1e-9
    better = (reward > has[:, None] + 1e-12) & (spend >= paid[:, None])
    assert not (better & (spend - paid[:, None] <= left - 1e-9)).any()


def test_spends_are_matched_with_rewards_by_label():
    reward = pd.Series([1.0, 2.0, 3.0], index=["a", "b", "c"])
    spend = pd.Series([10.0, 1.0, 1.0], index=["c", "b", "a"])
    assert cf.allocate(reward, money=2, spend=spend).tolist() == [True, True, False]
    with pytest.raises(cf.InputError, match="spend: expected a Series with the labels"):
        cf.allocate(reward, money=2, spend=spend.rename({"a": "z"}))
    rewards = pd.DataFrame({"small": [1.0, 0.1], "large": [1.5, 2.0]}, index=["a", "b"])
    spends = pd.DataFrame({"large": [9.0, 1.0], "small": [1.0, 1.0]}, index=["b", "a"])
    assert cf.allocate_arms(rewards, money=2, spend=spends).tolist() == [1, 0]


def test_an_arm_index_is_no_policy():
    arms = cf.allocate_arms([[0.1, 0.9], [0.8, 0.2], [0.7, 0.1]], budget=1.0)
    assert arms.tolist() == [1, 0, 0]
    study = cf.simulated_features(100)
    long = cf.allocate_arms(np.column_stack([study.log.t + 0.5, np.ones(100)]), budget=1.0)
    for policy in (long, long[:], long.copy()):
        with pytest.raises(cf.InputError, match="found indices of incentives, from allocate_arms"):
            cf.policy_value(policy, study.log, study.true_nuisances, cost=0.4)
    for integers in (np.asarray(long), long.tolist(), study.log.t):
        with pytest.raises(cf.InputError, match=r"treat: .*found integers"):
            cf.policy_value(integers, study.log, study.true_nuisances, cost=0.4)
    given = long == 1
    assert type(given) is np.ndarray and given.dtype == bool
    assert cf.policy_value(given, study.log, study.true_nuisances, cost=0.4).share_treated == given.mean()
    assert type(long >= 0) is np.ndarray and long.max() == 1 and int(long.sum()) == int(given.sum())


@pytest.mark.parametrize(("cost", "value"), [(3.0, None), ([0.2, 3.0], None), (3.0, 2.0), (3.0, [9.0, 2.0])])
def test_costs_that_do_not_fit_the_value_are_warned_of(cost, value):
    p = np.full((2, 5), 0.2)
    with pytest.warns(cf.UnitWarning, match="cost: .*conversion_value"):
        cf.expected_reward(p, "coupon", cost, conversion_value=value)


def test_no_step_is_taken_without_the_one_before_it():
    """The second step alone would fit into the money, but not the incentive that it leads to."""
    assert cf.allocate_arms([[1.0, 1.5]], money=0.9, spend=[[1.0, 1.6]]).tolist() == [-1]
    assert cf.allocate_arms([[1.0, 1.5], [0.1, 0.1]], money=1.7, spend=[[1.0, 1.6], [0.9, 1.0]]).tolist() == [
        1,
        -1,
    ]

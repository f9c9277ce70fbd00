import importlib
import inspect
import math

import numpy as np
import pytest
from scipy.optimize import linprog

from cfmtl_lib.errors import InputError
from cfmtl_lib.policy.allocation import allocate, threshold_policy, treatable
from cfmtl_lib.policy.rewards import SCENARIOS, count_outcomes, expected_reward, stratum_rewards


def test_expected_reward_of_certain_strata_is_the_stratum_reward():
    for scenario in SCENARIOS:
        np.testing.assert_allclose(expected_reward(np.eye(5), scenario, 0.4), stratum_rewards(scenario, 0.4))


@pytest.mark.parametrize(
    "p, message",
    [
        (np.ones(5) / 5, r"shape \(n, 5\)"),
        (np.ones((2, 4)) / 4, r"shape \(n, 5\)"),
        ([[0.2] * 5, [np.nan] * 5], "nan.*row 1"),
        ([[0.2] * 5, [0.3] * 5], "sum to 1.*row 1"),
    ],
)
def test_expected_reward_refuses(p, message):
    with pytest.raises(InputError, match=message):
        expected_reward(p, "coupon", 0.4)


def test_allocation_is_the_best_of_all_policies_within_the_budget():
    rng = np.random.default_rng(0)
    for _ in range(20):
        reward, budget = rng.normal(size=8), rng.uniform()
        policies = (np.arange(256)[:, None] >> np.arange(8)) & 1
        affordable = policies[policies.sum(1) <= math.floor(budget * 8)]
        assert reward[allocate(reward, budget)].sum() == pytest.approx((affordable @ reward).max())


def test_allocation_is_never_forced():
    assert not allocate([-1.0, 0.0], budget=1).any()
    assert not allocate([1.0, 2.0], budget=0).any()
    assert allocate([1.0, 2.0], budget=1).all()
    assert allocate([], budget=0.5).shape == (0,)


def test_ties_go_to_the_first():
    assert allocate([1.0, 1.0, 1.0, 1.0], 0.5).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "n, budget, expected", [(100, 0.29, 29), (540_113, 0.4, 216_045), (10, 0.999999, 9), (0, 1, 0)]
)
def test_treatable_reads_the_budget_as_written(n, budget, expected):
    assert treatable(n, budget) == expected


@pytest.mark.parametrize("budget", [-0.01, 1.01, float("nan"), "much"])
def test_budget_outside_0_1_is_refused(budget):
    with pytest.raises(InputError, match=r"budget: expected a share in \[0, 1\]"):
        allocate([0.5], budget)


@pytest.mark.parametrize("reward", [[np.nan, 1], [np.inf, 1], [[1.0]]])
def test_allocate_refuses_bad_rewards(reward):
    with pytest.raises(InputError, match="reward"):
        allocate(reward, 0.5)


def test_counts_by_scenario():
    treat, stratum = np.ones(6, dtype=bool), np.array([0, 1, 2, 3, 4, 4])
    assert count_outcomes(treat, stratum, "coupon", 0.4) == (1, 2, 3, pytest.approx(0.2))
    assert count_outcomes(treat, stratum, "cash", 0.4) == (1, 3, 2, pytest.approx(-0.2))
    assert count_outcomes(~treat, stratum, "cash", 0.4) == (0, 0, 0, 0)


@pytest.mark.parametrize("treat", [[True], [0, 2], [3, 1]])
def test_counts_refuse_target_indices_and_wrong_lengths(treat):
    with pytest.raises(InputError, match="treat"):
        count_outcomes(treat, [3, 4], "coupon", 0.4)


def test_counts_refuse_negative_cost():
    with pytest.raises(InputError, match="cost"):
        count_outcomes([True], [3], "coupon", -1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [0.0, 0.13, 0.5, 1.0])
def test_threshold_policy_solves_the_linear_program_of_the_budget(seed, budget):
    reward = np.round(np.random.default_rng(seed).normal(0.1, 0.3, 40), 1)  # many ties
    n = len(reward)
    best = linprog(-reward, A_ub=np.ones((1, n)), b_ub=[budget * n], bounds=[(0, 1)] * n)
    policy = threshold_policy(reward, budget)
    assert policy.probability @ reward == pytest.approx(-best.fun, abs=1e-9)
    assert policy.probability.sum() <= budget * n + 1e-9
    for value in np.unique(reward):  # tied pairs are treated alike
        assert len(np.unique(policy.probability[reward == value])) == 1
    assert 0 <= policy.at_threshold <= 1
    assert (reward > policy.threshold).mean() <= budget + 1e-12
    lower = reward[(reward < policy.threshold) & (reward >= 0)]
    assert not lower.size or (reward > lower.max()).mean() > budget - 1e-12
    assert policy.probability @ reward >= reward[allocate(reward, budget)].sum() - 1e-9


def test_a_budget_is_the_share_as_written():
    assert threshold_policy(np.ones(100), 0.29).probability.sum() == pytest.approx(29, abs=1e-12)
    exactly_enough = threshold_policy(np.arange(100) - 70.0, 0.29)  # 29 pairs of positive reward
    assert (exactly_enough.threshold, exactly_enough.at_threshold) == (0, 0)
    assert exactly_enough.probability.sum() == 29


REUSABLE = ("policy", "value", "estimators", "deployment")


def test_no_reusable_function_has_a_silent_cost():
    """0.4 is the paper's; whoever values a policy of their own says what an incentive costs them."""
    asked = 0
    for folder in REUSABLE:
        package = importlib.import_module(f"cfmtl_lib.{folder}")
        for _, public in inspect.getmembers(package, lambda x: inspect.isfunction(x) or inspect.isclass(x)):
            functions = [public] if inspect.isfunction(public) else [f for _, f in inspect.getmembers(public)]
            ours = [f for f in functions if inspect.isfunction(f) and f.__module__.startswith("cfmtl_lib")]
            for function in ours:
                cost = inspect.signature(function).parameters.get("cost")
                if cost is not None and function.__name__ != "predict":  # without a cost: the uplift
                    # None stands for the cost that the class was made with, and asked for.
                    made_with = (
                        inspect.signature(public).parameters.get("cost") if cost.default is None else cost
                    )
                    assert made_with is not None, f"{folder}: {function.__qualname__}"
                    assert made_with.default is cost.empty, f"{folder}: {function.__qualname__}"
                    asked += 1
    assert asked > 30

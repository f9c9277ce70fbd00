"""Rewards, budgets, and the choice of whom to treat."""

from cfmtl_lib.policy.allocation import ThresholdPolicy, allocate, threshold_policy, treatable
from cfmtl_lib.policy.arms import allocate_arms
from cfmtl_lib.policy.rewards import (
    OutcomeCounts,
    count_outcomes,
    expected_reward,
    expected_spend,
    stratum_rewards,
)

__all__ = [
    "OutcomeCounts",
    "ThresholdPolicy",
    "allocate",
    "allocate_arms",
    "count_outcomes",
    "expected_reward",
    "expected_spend",
    "stratum_rewards",
    "threshold_policy",
    "treatable",
]

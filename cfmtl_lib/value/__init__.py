"""Value of a policy from the log alone: doubly robust estimates, budget curves, errors and checks."""

from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.value.bounds import share_ranges, strata_bounds
from cfmtl_lib.value.calibration import calibration_curve
from cfmtl_lib.value.confounding import ConfoundingBound, confounding_bound
from cfmtl_lib.value.curves import BudgetCurve, budget_curve, budget_curve_difference
from cfmtl_lib.value.diagnostics import (
    balance,
    check_implications,
    negative_control,
    overlap,
    propensity_calibration,
)
from cfmtl_lib.value.estimates import (
    Estimate,
    PolicyValue,
    policy_value,
    policy_value_difference,
    strata_shares,
)
from cfmtl_lib.value.finite_sample import RewardBound, reward_lower_bound
from cfmtl_lib.value.randomised import arm_means, arm_scores, complementary_thinning
from cfmtl_lib.value.scores import UnitScores, unit_scores
from cfmtl_lib.value.treated import (
    TreatedScores,
    treated_effect,
    treated_scores,
    treated_shares,
    treated_value,
)

__all__ = [
    "BudgetCurve",
    "ConfoundingBound",
    "Estimate",
    "LogNuisances",
    "PolicyValue",
    "RewardBound",
    "TreatedScores",
    "UnitScores",
    "arm_means",
    "arm_scores",
    "balance",
    "budget_curve",
    "budget_curve_difference",
    "calibration_curve",
    "check_implications",
    "complementary_thinning",
    "confounding_bound",
    "crossfit",
    "negative_control",
    "overlap",
    "policy_value",
    "policy_value_difference",
    "propensity_calibration",
    "reward_lower_bound",
    "share_ranges",
    "strata_bounds",
    "strata_shares",
    "treated_effect",
    "treated_scores",
    "treated_shares",
    "treated_value",
    "unit_scores",
]

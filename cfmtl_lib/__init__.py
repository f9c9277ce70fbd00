"""Counterfactual strata, budgeted incentives and what they are worth.

A companion to "Who Should Be Given Incentives? Counterfactual Optimal Treatment Regimes Learning for
Recommendation" (KDD 2023, DOI 10.1145/3580305.3599550).

Examples
--------
>>> import cfmtl_lib as cf
>>> study = cf.simulated(n_users=60, n_items=50, n_pairs=2000)
>>> model = cf.CFMTL(seed=0, config=cf.FitConfig(embedding_k=8, max_epochs=300)).fit(study.train)
>>> p = model.predict_strata(study.test.x)
>>> p.shape
(600, 5)
>>> r = cf.expected_reward(p, scenario="coupon", cost=0.4)
>>> treat = cf.allocate(r, budget=0.4)
>>> int(treat.sum()) <= 240
True
"""

from cfmtl_lib.datasets import (
    CATALOG,
    LabelledPairs,
    Ratings,
    Study,
    load_ratings,
    load_study,
    semisynthetic,
    simulated,
    simulated_campaign,
    simulated_features,
)
from cfmtl_lib.deployment.batch_scoring import score_parquet
from cfmtl_lib.deployment.model_selection import cell_calibration, compare_models, policy_value_scorer
from cfmtl_lib.deployment.storage import load, save
from cfmtl_lib.errors import (
    InputError,
    LogError,
    ModelFileError,
    RatingsError,
    ResultsError,
    StudyError,
    UnknownNameError,
)
from cfmtl_lib.estimators.base import LogEstimator, StrataEstimator
from cfmtl_lib.estimators.baselines import DR, IPS, OR, DRNet, IPSNet, Naive, ORNet
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_v1 import CFMTLv1
from cfmtl_lib.estimators.counterfactual import CFDR, CFIPS, CFOR
from cfmtl_lib.experiments.methods import METHODS, fit_methods
from cfmtl_lib.experiments.paper.fit_variants import fit_variants
from cfmtl_lib.experiments.paper.tables import table4, table5_6
from cfmtl_lib.logs.encoding import FrameEncoder
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.logs.schema import InputSchema
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.feature_networks import FeatureConfig
from cfmtl_lib.models.losses import CellWeights
from cfmtl_lib.nuisances.pair_classifier import PairClassifier
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances
from cfmtl_lib.policy.allocation import allocate, threshold_policy
from cfmtl_lib.policy.arms import allocate_arms
from cfmtl_lib.policy.rewards import (
    SCENARIOS,
    OutcomeCounts,
    count_outcomes,
    expected_reward,
    expected_spend,
    stratum_rewards,
)
from cfmtl_lib.protocol import PAPER, Protocol
from cfmtl_lib.runtime.fit_cache import FitCache
from cfmtl_lib.strata import CELLS, STRATA
from cfmtl_lib.value import (
    BudgetCurve,
    Estimate,
    LogNuisances,
    PolicyValue,
    UnitScores,
    budget_curve,
    budget_curve_difference,
    crossfit,
    policy_value,
    policy_value_difference,
    strata_shares,
    unit_scores,
)

__version__ = "0.1.0"

__all__ = [
    "CATALOG",
    "CELLS",
    "CFDR",
    "CFIPS",
    "CFMTL",
    "CFOR",
    "DR",
    "IPS",
    "METHODS",
    "OR",
    "PAPER",
    "SCENARIOS",
    "STRATA",
    "BudgetCurve",
    "CFMTLv1",
    "CellWeights",
    "DRNet",
    "Estimate",
    "FeatureConfig",
    "FitCache",
    "FitConfig",
    "FrameEncoder",
    "IPSNet",
    "IncentiveLog",
    "InputError",
    "InputSchema",
    "LabelledPairs",
    "LogError",
    "LogEstimator",
    "LogNuisances",
    "ModelFileError",
    "Naive",
    "ORNet",
    "OutcomeCounts",
    "PairClassifier",
    "PairNuisances",
    "ParquetLog",
    "PolicyValue",
    "Protocol",
    "Ratings",
    "RatingsError",
    "ResultsError",
    "StrataEstimator",
    "Study",
    "StudyError",
    "UnitScores",
    "UnknownNameError",
    "allocate",
    "allocate_arms",
    "budget_curve",
    "budget_curve_difference",
    "cell_calibration",
    "compare_models",
    "count_outcomes",
    "crossfit",
    "expected_reward",
    "expected_spend",
    "fit_methods",
    "fit_variants",
    "load",
    "load_ratings",
    "load_study",
    "policy_value",
    "policy_value_difference",
    "policy_value_scorer",
    "save",
    "score_parquet",
    "semisynthetic",
    "simulated",
    "simulated_campaign",
    "simulated_features",
    "strata_shares",
    "stratum_rewards",
    "table4",
    "table5_6",
    "threshold_policy",
    "unit_scores",
]

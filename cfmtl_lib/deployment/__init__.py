"""Models chosen, saved, loaded, and applied to tables larger than memory."""

from cfmtl_lib.deployment.auto_policy import AutoPolicy
from cfmtl_lib.deployment.batch_scoring import score_parquet
from cfmtl_lib.deployment.model_selection import cell_calibration, compare_models, policy_value_scorer
from cfmtl_lib.deployment.storage import load, save

__all__ = [
    "AutoPolicy",
    "cell_calibration",
    "compare_models",
    "load",
    "policy_value_scorer",
    "save",
    "score_parquet",
]

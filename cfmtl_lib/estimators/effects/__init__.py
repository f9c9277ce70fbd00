"""Learners of the effects on conversions and payments, a file each; they identify no strata."""

from cfmtl_lib.estimators.effects.base import EffectEstimator, EffectInput
from cfmtl_lib.estimators.effects.bayesian_forest import BART, BCF
from cfmtl_lib.estimators.effects.bnn import BNN
from cfmtl_lib.estimators.effects.causal_forest import CausalForest
from cfmtl_lib.estimators.effects.cfr import CFR
from cfmtl_lib.estimators.effects.descn import DESCN
from cfmtl_lib.estimators.effects.dragonnet import DragonNet
from cfmtl_lib.estimators.effects.perfect_match import PerfectMatch
from cfmtl_lib.estimators.effects.tarnet import TARNet

__all__ = [
    "BART",
    "BCF",
    "BNN",
    "CFR",
    "DESCN",
    "CausalForest",
    "DragonNet",
    "EffectEstimator",
    "EffectInput",
    "PerfectMatch",
    "TARNet",
]

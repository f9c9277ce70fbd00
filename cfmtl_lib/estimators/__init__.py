"""Estimators of the reward and of the strata, all with scikit-learn's conventions."""

from cfmtl_lib.estimators.base import LogEstimator, StrataEstimator
from cfmtl_lib.estimators.baselines import DR, IPS, OR, DRNet, IPSNet, MomentEstimator, Naive, ORNet
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_v1 import CFMTLv1
from cfmtl_lib.estimators.counterfactual import CFDR, CFIPS, CFOR
from cfmtl_lib.estimators.effects import EffectEstimator, EffectInput
from cfmtl_lib.estimators.entire_space.escm2 import ESCM2
from cfmtl_lib.estimators.entire_space.esmm import ESMM
from cfmtl_lib.estimators.entire_space.mmoe import MMoE
from cfmtl_lib.estimators.entire_space.multi_ipw import MultiIPW
from cfmtl_lib.estimators.latent_strata import LatentStrata
from cfmtl_lib.estimators.meta_learners import DRLearner, XLearner

__all__ = [
    "CFDR",
    "CFIPS",
    "CFMTL",
    "CFOR",
    "DR",
    "ESCM2",
    "ESMM",
    "IPS",
    "OR",
    "CFMTLv1",
    "DRLearner",
    "DRNet",
    "EffectEstimator",
    "EffectInput",
    "IPSNet",
    "LatentStrata",
    "LogEstimator",
    "MMoE",
    "MomentEstimator",
    "MultiIPW",
    "Naive",
    "ORNet",
    "StrataEstimator",
    "XLearner",
]

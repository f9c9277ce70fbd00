"""Learners of the effects on conversions and payments, a file each; they identify no strata."""

from cfmtl_lib.estimators.effects.base import EffectEstimator, EffectInput
from cfmtl_lib.estimators.effects.x_learner import XLearner

__all__ = ["EffectEstimator", "EffectInput", "XLearner"]

"""Learners of the effects on conversions and payments, a file each; they identify no strata."""

from cfmtl_lib.estimators.effects.base import EffectEstimator, EffectInput

__all__ = ["EffectEstimator", "EffectInput"]

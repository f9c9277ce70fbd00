"""Learners of effects made of any regressions; they identify no strata."""

from cfmtl_lib.estimators.meta_learners.dr_learner import DRLearner
from cfmtl_lib.estimators.meta_learners.x_learner import XLearner

__all__ = ["DRLearner", "XLearner"]

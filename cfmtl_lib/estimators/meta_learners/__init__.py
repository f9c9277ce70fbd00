"""Learners of effects that are made of any regressions; they identify no strata."""

from cfmtl_lib.estimators.meta_learners.dr_learner import DRLearner

__all__ = ["DRLearner"]

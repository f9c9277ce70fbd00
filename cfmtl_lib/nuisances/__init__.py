"""Conditional expectations behind estimators and policy values."""

from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.feature_nuisances import FeatureNuisances
from cfmtl_lib.nuisances.learners import adapt_learner, default_classifier, default_regressor
from cfmtl_lib.nuisances.moments import FAMILIES, MOMENTS, LogNuisances
from cfmtl_lib.nuisances.pair_classifier import PairClassifier
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances

__all__ = [
    "FAMILIES",
    "MOMENTS",
    "FeatureNuisances",
    "LogNuisances",
    "PairClassifier",
    "PairNuisances",
    "adapt_learner",
    "crossfit",
    "default_classifier",
    "default_regressor",
]

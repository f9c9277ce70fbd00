"""Data: the catalog, ratings tables, and simulated and semi-synthetic studies with known strata."""

from cfmtl_lib.datasets.case_studies.thornton import load_thornton, simulated_cash_trial, tidy_cash_trial
from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.datasets.construction import semisynthetic
from cfmtl_lib.datasets.loading import load_study
from cfmtl_lib.datasets.ratings import Ratings, load_ratings
from cfmtl_lib.datasets.simulation_campaign import simulated_campaign
from cfmtl_lib.datasets.simulation_features import FeatureStudy, simulated_features
from cfmtl_lib.datasets.simulation_pairs import simulated
from cfmtl_lib.datasets.study import LabelledPairs, Study

__all__ = [
    "CATALOG",
    "FeatureStudy",
    "LabelledPairs",
    "Ratings",
    "Study",
    "load_ratings",
    "load_study",
    "load_thornton",
    "semisynthetic",
    "simulated",
    "simulated_campaign",
    "simulated_cash_trial",
    "simulated_features",
    "tidy_cash_trial",
]

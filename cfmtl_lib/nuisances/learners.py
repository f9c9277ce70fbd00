"""Default learners of the means of a log, and their adaptation to the columns of a table."""

from __future__ import annotations

from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.encoding import FrameEncoder
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.boosted import BoostedClassifier, BoostedRegressor, with_categories
from cfmtl_lib.nuisances.pair_classifier import PairClassifier

MOST_LEVELS = 254
"""Largest number of levels (beside a missing one) of a category that boosting in bins splits as sets."""

BOOSTING = (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    BoostedClassifier,
    BoostedRegressor,
)


def default_classifier(log: IncentiveLog, seed: int = 0) -> BaseEstimator:
    """Make the default classifier: the paper's network for pairs, gradient boosting for features.

    Boosting takes missing numbers as missing and categories as sets. A category of more than
    :data:`MOST_LEVELS` levels is replaced by the cross-fitted mean of the target in each level.
    """
    if log.is_pairs:
        return PairClassifier(pair_space=log.pair_space)
    return adapt_learner(BoostedClassifier(seed=seed), log)


def default_regressor(log: IncentiveLog, seed: int = 0) -> BaseEstimator:
    """Make the default regressor, gradient boosting, for targets that are no probabilities; features only."""
    return adapt_learner(BoostedRegressor(seed=seed), log)


def adapt_learner(learner: BaseEstimator, log: IncentiveLog) -> BaseEstimator:
    """Adapt a learner to the x of a log, so that it does not take codes for quantities.

    Parameters
    ----------
    learner : scikit-learn classifier or regressor
        Learner to adapt. It stays unchanged for arrays of floats. A ``Pipeline`` always stays unchanged, and
        has to handle the columns of ``log.x`` itself. For the columns of a table, boosting in bins gets the
        positions of the categories. Any other learner gets one column per level (``OneHotEncoder``) and
        standardised numbers. The median replaces missing numbers, with a column that marks them.
    log : IncentiveLog

    Returns
    -------
    estimator
        Unfitted learner.

    Raises
    ------
    InputError
        If the log holds pairs and the learner would take ids for quantities.
    """
    if isinstance(learner, PairClassifier):
        return learner if learner.pair_space else clone(learner).set_params(pair_space=log.pair_space)
    if log.is_pairs and not isinstance(learner, Pipeline):
        raise InputError(
            "learner",
            expected="a PairClassifier, or a Pipeline that encodes ids itself",
            found=f"{type(learner).__name__}, which takes user and item ids for quantities",
            advice="Pass features beside the pairs, IncentiveLog((pairs, features), ...), or features=.",
        )
    if log.encoder is None or isinstance(learner, Pipeline):
        return learner
    if isinstance(learner, BOOSTING):
        return _boosting(learner, log.encoder)
    return make_pipeline(columns_of_numbers(log.encoder), learner)


def category_columns(encoder: FrameEncoder | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions of categories of at most :data:`MOST_LEVELS` levels, and of those of more."""
    few: list[int] = []
    many: list[int] = []
    for k, column in enumerate(encoder.columns if encoder else ()):
        if column.kind == "category":
            (many if len(column.categories) > MOST_LEVELS else few).append(k)
    return tuple(few), tuple(many)


def _boosting(learner: BaseEstimator, encoder: FrameEncoder) -> BaseEstimator:
    few, many = category_columns(encoder)
    if isinstance(learner, BoostedClassifier | BoostedRegressor):
        return clone(learner).set_params(codes=few, many=many)
    return with_categories(clone(learner), few, many, len(encoder.columns))


def columns_of_numbers(encoder: FrameEncoder) -> ColumnTransformer:
    """Make the transformer of a table's columns for learners that take numbers alone.

    A category becomes one column per level. Numbers are standardised; the median replaces missing ones, with
    a column that marks them.

    Parameters
    ----------
    encoder : FrameEncoder

    Returns
    -------
    ColumnTransformer
        Unfitted transformer.
    """
    codes = encoder.is_category.nonzero()[0].tolist()
    numbers = (~encoder.is_category).nonzero()[0].tolist()
    levels = [list(range(len(encoder.columns[k].categories) + 1)) for k in codes]
    scaled = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    return ColumnTransformer(
        [("levels", OneHotEncoder(categories=levels), codes), ("numbers", scaled, numbers)]
    )

"""Gradient boosting that fits any number of rows and events, and columns without values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import TargetEncoder
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.runtime.registry import storable

ROWS_TO_STOP_EARLY = 10_000
"""Least number of rows at which boosting uses early stopping, with a tenth of them as validation set."""

ROWS_FOR_LARGER_TREES = 200_000
"""Least number of rows for trees of 31 leaves in larger steps. On so many rows they have the log-loss of
small trees in a tenth of the time; a hundred steps bound the time of a fit."""

EVENTS_TO_STOP_EARLY = 100
"""Least number of rows of the rarer class for early stopping: ten of them are in the validation set."""

EVENTS_FOR_TREES = 10
"""Least number of rows of the rarer class for trees; below it every row gets the rate of all."""


def boosting(
    kind: type[BaseEstimator], n_rows: int, seed: int = 0, *, n_events: int | None = None
) -> HistGradientBoostingClassifier | HistGradientBoostingRegressor:
    """Make gradient boosting of shallow trees in small steps, for this many rows.

    scikit-learn's defaults overfit logs of some thousand rows. On new customers of simulated campaigns these
    trees have the smaller log-loss; a test checks it.

    Parameters
    ----------
    kind : type
        Class of scikit-learn's boosting in bins.
    n_rows : int
    seed : int
    n_events : int, optional
        Number of rows of the rarer class; early stopping needs :data:`EVENTS_TO_STOP_EARLY`.
    """
    many = n_rows >= ROWS_TO_STOP_EARLY and (n_events is None or n_events >= EVENTS_TO_STOP_EARLY)
    larger = many and n_rows >= ROWS_FOR_LARGER_TREES
    return kind(
        learning_rate=0.2 if larger else 0.05,
        max_leaf_nodes=31 if larger else 8,
        max_iter=1000 if many and not larger else 100,
        early_stopping=many,
        n_iter_no_change=15,
        random_state=seed,
    )


def smoothed_rate(target: NDArray) -> float:
    """Return the rate of a 0/1 target, with half an event and half a non-event added.

    Examples
    --------
    >>> smoothed_rate(np.array([0, 0, 0, 1]))
    0.3
    """
    return (float(target.sum()) + 0.5) / (len(target) + 1)


def with_categories(
    learner: BaseEstimator, codes: Sequence[int], many: Sequence[int], n_columns: int
) -> BaseEstimator:
    """Tell boosting in bins which columns of x are codes of categories.

    Parameters
    ----------
    learner : HistGradientBoostingClassifier or HistGradientBoostingRegressor
    codes : sequence of int
        Positions of categories that bins can split as sets.
    many : sequence of int
        Positions of categories of more levels: each becomes the cross-fitted mean of the target by level.
    n_columns : int
        Number of columns of x.

    Returns
    -------
    estimator
        Unfitted learner.
    """
    if not many:
        return learner.set_params(categorical_features=list(codes) or None)
    numbers = [k for k in range(n_columns) if k not in codes and k not in many]
    columns = ColumnTransformer(
        [
            ("kept", "passthrough", [*codes, *numbers]),
            ("means", TargetEncoder(cv=KFold(5, shuffle=True, random_state=0)), list(many)),
        ],
        remainder="drop",
    )
    coded = list(range(len(codes))) or None  # the columns that are kept come first
    return Pipeline([("columns", columns), ("learner", learner.set_params(categorical_features=coded))])


class _Boosted(BaseEstimator):
    """Boosting by :func:`boosting`, with the columns that hold no number in ``fit`` left out of account."""

    def __init__(self, *, codes: Sequence[int] = (), many: Sequence[int] = (), seed: int = 0) -> None:
        self.codes = codes
        self.many = many
        self.seed = seed

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_")}
        return {"parameters": self.get_params(deep=False), "fitted": fitted}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        model = cls(**parts["parameters"])
        for name in ("learner_", "empty_", "rate_", "classes_"):
            if name in parts["fitted"]:
                setattr(model, name, parts["fitted"][name])
        return model

    def _fit(self, learner: BaseEstimator, x: NDArray, target: NDArray) -> None:
        self.empty_ = np.isnan(x).all(axis=0)
        learner = with_categories(learner, self.codes, self.many, x.shape[1])
        self.learner_ = learner.fit(self._filled(x), target)

    def _filled(self, x: ArrayLike) -> NDArray[np.float64]:
        """Put 0 into columns that held no number in ``fit``: bins cannot be made of nothing."""
        values = np.asarray(x, dtype=np.float64)
        return np.where(self.empty_, 0.0, values) if self.empty_.any() else values


@storable
class BoostedClassifier(ClassifierMixin, _Boosted):
    """Classifier of a 0/1 target by boosted trees, for any number of rows and events.

    With fewer than :data:`EVENTS_FOR_TREES` rows of the rarer class, it predicts the smoothed rate. Columns
    that hold no number in ``fit`` are left out of account.

    Parameters
    ----------
    codes : sequence of int
        Positions of columns of x that are codes of categories.
    many : sequence of int
        Positions of categories with too many levels for bins, replaced by cross-fitted means of the target.
    seed : int

    Attributes
    ----------
    learner_ : estimator or None
        Fitted learner; None where the rate is predicted.
    rate_ : float
        Smoothed rate of the target.
    empty_ : ndarray of shape (p,), bool
        True for columns without a number.
    classes_ : ndarray of shape (2,)

    Examples
    --------
    >>> x, y = np.arange(40.0)[:, None], np.arange(40) >= 37
    >>> BoostedClassifier().fit(x, y).predict_proba(x[:1]).round(3).tolist()
    [[0.915, 0.085]]
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit trees, or the rate where events are few; x of shape (n, p), y of n values 0/1."""
        x, target = np.asarray(X, dtype=np.float64), np.asarray(y).astype(np.int64)
        self.classes_ = np.array([0, 1])
        self.rate_ = smoothed_rate(target)
        self.learner_ = None
        self.empty_ = np.zeros(x.shape[1], dtype=bool)
        events = rarer(target)
        if events >= EVENTS_FOR_TREES:
            learner = boosting(HistGradientBoostingClassifier, len(x), self.seed, n_events=events)
            self._fit(learner, x, target)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the probabilities of 0 and of 1, shape (n, 2)."""
        check_is_fitted(self, "rate_")
        if self.learner_ is None:
            one = np.full(len(np.asarray(X)), self.rate_)
            return np.stack([1 - one, one], axis=1)
        return self.learner_.predict_proba(self._filled(X))

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Predict the likelier class, shape (n,)."""
        return (self.predict_proba(X)[:, 1] > 0.5).astype(np.int64)


@storable
class BoostedRegressor(RegressorMixin, _Boosted):
    """Regressor by boosted trees that leaves columns without numbers out of account.

    Parameters
    ----------
    codes, many, seed
        See :class:`BoostedClassifier`.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit trees to x of shape (n, p) and y of n numbers."""
        x = np.asarray(X, dtype=np.float64)
        self._fit(boosting(HistGradientBoostingRegressor, len(x), self.seed), x, np.asarray(y))
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the target, shape (n,)."""
        check_is_fitted(self, "learner_")
        return self.learner_.predict(self._filled(X))


def rarer(target: NDArray) -> int:
    """Count the rows of the rarer class of a 0/1 target.

    Examples
    --------
    >>> rarer(np.array([0, 1, 1, 1]))
    1
    """
    ones = int(target.sum())
    return min(ones, len(target) - ones)

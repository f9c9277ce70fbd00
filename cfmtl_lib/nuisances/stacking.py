r"""Stack of a smooth logistic regression and boosted trees: the default learner of :func:`crossfit`.

No one learner is near enough to every propensity and outcome. The stack has four candidates. Two are logistic
regressions on products and on coarse or fine splines, two are boosted trees at an early and at a late step.
They are fitted once for each fold. A further logistic regression combines their logits and recalibrates them
(Platt scaling). It is fitted to rows that the candidates have not seen, so it costs no further fits of them.
This is "short-stacking" (Ahrens, Hansen, Schaffer and Wiemann, 2025, "Model averaging and double machine
learning"). See also Wolpert (1992), "Stacked generalization".

Few events admit fewer candidates, and the result says which were used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PolynomialFeatures,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)

from cfmtl_lib.errors import InputError
from cfmtl_lib.nuisances.boosted import EVENTS_FOR_TREES, boosting, rarer, smoothed_rate

EVENTS_FOR_STACK = 40
"""Least number of rows of the rarer class, in every training part, for all candidates."""

MOST_PRODUCTS_OF = 12
"""Largest number of numeric columns whose products enter the logistic regression."""

ROWS_OF_LOGISTIC = 100_000
"""Largest number of rows that the logistic regression is fitted to: a weighted part of larger logs."""

ROWS_PER_CHUNK = 100_000
"""Number of rows that are predicted at a time: splines and products take some hundred columns."""

KNOTS = (5, 8)
"""Numbers of knots of each number's splines, one for each logistic regression."""

FURTHEST_NUMBER = 4.0
"""Number of standard deviations at which numbers are cut for the logistic regression."""

FURTHEST_LOGIT = float(logit(1 - 1e-4))
"""Largest size of a candidate's logit."""

Predictor = Callable[[NDArray], NDArray[np.float64]]
"""Function from rows of x, shape (m, p), to the candidates' logits, shape (m, number of candidates)."""


def training_part(rows: NDArray[np.bool_], fold: NDArray[np.int64], k: int, name: str) -> NDArray[np.bool_]:
    """Mark the rows of a target outside fold k, or all of them where there is one fold.

    Raises
    ------
    InputError
        If none is left.
    """
    training = rows & (fold != k) if fold.max() > 0 else rows
    if not training.any():
        raise InputError(
            f"fold {k}",
            expected=f"rows to fit {name} on outside the fold",
            found="none",
            advice="Use fewer folds, or folds that hold both arms.",
        )
    return training


class ShortStack:
    """Candidates of one target, fitted once for each fold, and their combination.

    Parameters
    ----------
    name : str
        Name of the target, for errors.
    target : ndarray of shape (n,), 0/1
    rows : ndarray of shape (n,), bool
        Rows that the target is fitted on.
    fold : ndarray of shape (n,), int
    codes, many : sequence of int
        Positions of categories in x; see :class:`~cfmtl_lib.nuisances.boosted.BoostedClassifier`.
    seed : int

    Attributes
    ----------
    level : {"stack", "logistic", "rate", "constant"}
        Candidates that the events of the smallest training part admit.
    events : int
        Number of rows of the rarer class in that part.
    """

    def __init__(
        self,
        name: str,
        target: NDArray,
        rows: NDArray[np.bool_],
        fold: NDArray[np.int64],
        *,
        codes: Sequence[int] = (),
        many: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.name, self.target, self.rows, self.fold = name, target, rows, fold
        self.codes, self.many, self.seed = codes, many, seed
        self._parts = int(fold.max()) + 1
        self.events = min(rarer(target[self._training(k)]) for k in range(self._parts))
        enough = int(self.events >= EVENTS_FOR_TREES) + int(self.events >= EVENTS_FOR_STACK)
        self.level = ("rate", "logistic", "stack")[enough] if rarer(target[rows]) else "constant"
        self._logits: NDArray[np.float64] | None = None

    def _training(self, k: int) -> NDArray[np.bool_]:
        return training_part(self.rows, self.fold, k, self.name)

    def fit_part(self, x: NDArray, k: int) -> None:
        """Fit the candidates without fold k, and predict it."""
        training, held_out = self._training(k), self.fold == k
        predict = self._candidates(x[training], self.target[training])
        chunks = np.array_split(x[held_out], max(1, int(held_out.sum()) // ROWS_PER_CHUNK))
        found = np.concatenate([predict(chunk) for chunk in chunks])
        if self._logits is None:
            self._logits = np.zeros((len(self.target), found.shape[1]))
        self._logits[held_out] = found

    def combined(self) -> NDArray[np.float64]:
        """Combine the candidates at every row, by weights fitted to the other folds; shape (n,)."""
        assert self._logits is not None
        if self.level != "stack":
            return expit(self._logits[:, 0])
        logits, values = self._logits.clip(-FURTHEST_LOGIT, FURTHEST_LOGIT), np.empty(len(self.target))
        for k in range(self._parts):
            training, held_out = self._training(k), self.fold == k
            weights = LogisticRegression(C=1.0, max_iter=500)
            weights.fit(logits[training], self.target[training])
            values[held_out] = weights.predict_proba(logits[held_out])[:, 1]
        return values

    def _candidates(self, x: NDArray, target: NDArray) -> Predictor:
        if self.level == "constant":
            return lambda rows: np.full((len(rows), 1), np.inf if target[0] else -np.inf)
        if self.level == "rate":
            rate = logit(smoothed_rate(target))
            return lambda rows: np.full((len(rows), 1), rate)
        columns = _Columns(self.many, self.seed)
        x = columns.fit_transform(x, target)
        chosen, weight = _sample(target, ROWS_OF_LOGISTIC, self.seed)
        is_stack = self.level == "stack"
        logistic = [
            _logistic(self.codes, x.shape[1], n_knots).fit(
                x[chosen], target[chosen], logisticregression__sample_weight=weight
            )
            for n_knots in (KNOTS if is_stack else (None,))
        ]
        trees = _trees(self.codes, self.seed, x, target) if is_stack else None

        def logits(rows: NDArray) -> NDArray[np.float64]:
            rows = columns.transform(rows)
            found = [model.decision_function(rows) for model in logistic]
            if trees is not None:
                found += _at_two_steps(trees, rows)
            return np.column_stack(found)

        return logits


def _sample(target: NDArray, most: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Draw at most so many rows, up to half of them of each class, and weights that undo the draw.

    A draw without regard to the class could miss a rare one altogether.
    """
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(target == 0), np.flatnonzero(target == 1)]
    fewer = min(len(rows) for rows in classes)
    allowed = max(most // 2, most - fewer)
    drawn = [
        rows if len(target) <= most or len(rows) <= allowed else rng.choice(rows, allowed, replace=False)
        for rows in classes
    ]
    weight = np.concatenate(
        [np.full(len(part), len(rows) / len(part)) for part, rows in zip(drawn, classes, strict=True)]
    )
    chosen = np.concatenate(drawn)
    order = np.argsort(chosen)
    return chosen[order], (weight / weight.mean())[order]


class _Columns:
    """Columns of x as all candidates can take them: means for categories of many levels, 0 for no values."""

    def __init__(self, many: Sequence[int], seed: int) -> None:
        self.many = list(many)
        self.means = TargetEncoder(cv=KFold(5, shuffle=True, random_state=seed))

    def fit_transform(self, x: NDArray, target: NDArray) -> NDArray[np.float64]:
        self.empty = np.isnan(x).all(axis=0)
        if self.many:
            means = self.means.fit_transform(x[:, self.many], target)  # of the other folds
            return self._put(x, means)
        return self._put(x, None)

    def transform(self, x: NDArray) -> NDArray[np.float64]:
        return self._put(x, self.means.transform(x[:, self.many]) if self.many else None)

    def _put(self, x: NDArray, means: NDArray | None) -> NDArray[np.float64]:
        x = np.where(self.empty, 0.0, x)
        if means is not None:
            x[:, self.many] = means
        return x


def _trees(codes: Sequence[int], seed: int, x: NDArray, target: NDArray) -> HistGradientBoostingClassifier:
    learner = boosting(HistGradientBoostingClassifier, len(x), seed, n_events=rarer(target))
    # Larger steps than alone: the stack recalibrates what is too sure.
    learner.set_params(learning_rate=0.1, categorical_features=list(codes) or None)
    return learner.fit(x, target)


def _at_two_steps(trees: HistGradientBoostingClassifier, rows: NDArray) -> list[NDArray[np.float64]]:
    """Return the logits after three tenths of the trees, and after all."""
    early = max(1, round(0.3 * trees.n_iter_)) - 1
    return [next(islice(trees.staged_decision_function(rows), early, None)), trees.decision_function(rows)]


def _logistic(codes: Sequence[int], n_columns: int, n_knots: int | None) -> BaseEstimator:
    """Make a logistic regression on levels and numbers, and on splines and products if there are knots."""
    numbers = [k for k in range(n_columns) if k not in codes]
    shapes = [FunctionTransformer()]
    if n_knots is not None:
        shapes = [SplineTransformer(n_knots=n_knots, include_bias=False, extrapolation="constant")]
        if len(numbers) <= MOST_PRODUCTS_OF:
            shapes.append(PolynomialFeatures(2, interaction_only=True, include_bias=False))
    of_numbers = make_pipeline(
        SimpleImputer(strategy="median"),
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -FURTHEST_NUMBER, "a_max": FURTHEST_NUMBER}),
        make_union(*shapes),
    )
    marks = MissingIndicator(features="missing-only", error_on_new=False)
    parts = [
        ("numbers", of_numbers, numbers),
        ("missing", marks, numbers),
        ("levels", OneHotEncoder(handle_unknown="ignore"), list(codes)),
    ]
    return make_pipeline(
        ColumnTransformer([part for part in parts if part[2]]),
        LogisticRegression(C=0.1 if n_knots is None else 0.3, solver="newton-cholesky", max_iter=200),
    )

"""Cross-fitted nuisances of a log, by scikit-learn classifiers."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cfmtl_lib.checks import check_count, check_flag, check_seed, describe
from cfmtl_lib.errors import InputError, TrustWarning
from cfmtl_lib.logs.alignment import aligned_values, as_array, label_codes
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log, is_one_number, table_at_rows
from cfmtl_lib.logs.validation import checked_propensity
from cfmtl_lib.nuisances.amounts import crossfit_amounts
from cfmtl_lib.nuisances.boosted import BoostedRegressor
from cfmtl_lib.nuisances.learner_checks import (
    check_classifier,
    check_regressor,
    fit_clone,
    probabilities_of_one,
)
from cfmtl_lib.nuisances.learners import (
    adapt_learner,
    category_columns,
    default_classifier,
    default_regressor,
)
from cfmtl_lib.nuisances.moments import MOMENTS, LogNuisances
from cfmtl_lib.nuisances.stacking import ShortStack, training_part
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.threads import threads_for


def crossfit(
    log: IncentiveLog,
    *,
    outcome: ClassifierMixin | None = None,
    propensity: ClassifierMixin | ArrayLike | None = None,
    amount: RegressorMixin | None = None,
    features: ArrayLike | None = None,
    folds: int | ArrayLike = 5,
    seed: int = 0,
    progress: bool = False,
) -> LogNuisances:
    """Estimate propensity and conditional means of each row by classifiers that have not seen it.

    Parameters
    ----------
    log : IncentiveLog
    outcome : classifier with ``predict_proba``, optional
        Classifier of the four means, cloned for each mean and fold. If left out:
        :class:`~cfmtl_lib.nuisances.pair_classifier.PairClassifier` for pairs, a stack of logistic
        regression and boosted trees (:mod:`cfmtl_lib.nuisances.stacking`) for features.
        :func:`~cfmtl_lib.nuisances.learners.adapt_learner` adapts it to the columns of a table.
    propensity : classifier or array_like of shape (n,), optional
        Classifier of the propensity, or its known values. If left out: the known propensity of the log, or
        else as for the outcomes.
    amount : regressor, optional
        Regressor of an outcome in money, cloned for each arm and fold; only for a log that has one. If left
        out: boosted trees and the mean amount of a conversion, combined (:mod:`cfmtl_lib.nuisances.amounts`).
    features : array_like of shape (n, p), optional
        Input of the classifiers; ``log.x`` if left out. Needed for scikit-learn classifiers on logs of pairs.
    folds : int or array_like of shape (n,), integer
        Number of folds to draw, or the fold of each row. Drawn folds are stratified by treatment and observed
        cell. Rows of one cluster of the log stay together. One fold means no cross-fitting, for comparison
        only: it fits and predicts on the same rows.
    seed : int
        Seed of the folds, and of the default learners for features.
    progress : bool
        Whether to report progress on stderr.

    Returns
    -------
    LogNuisances

    Raises
    ------
    InputError
        If folds or features do not fit the log, or a training part of a fold lacks an arm.

    Notes
    -----
    Cross-fitting: Chernozhukov et al. (2018), "Double/debiased machine learning for treatment and
    structural parameters". Folds are over rows. Where rows of one user may not be split (features of users
    that recur), pass the folds: ``folds=user % 5``.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(400, 2))
    >>> t = rng.integers(0, 2, 400)
    >>> log = IncentiveLog(x, t, c=t * rng.integers(0, 2, 400), y=rng.integers(0, 2, 400))
    >>> nuisances = crossfit(log, outcome=LogisticRegression(), propensity=LogisticRegression())
    >>> bool(abs(nuisances.propensity.mean() - t.mean()) < 0.05)
    True
    """
    n, seed, progress = len(check_log(log)), check_seed(seed), check_flag(progress, "progress")
    seen = log.x if features is None else _rows_of(features, log)
    outcome = outcome if outcome is None else check_classifier(outcome, "outcome")
    known = log.propensity if propensity is None else None
    if propensity is not None and (hasattr(propensity, "fit") or inspect.isclass(propensity)):
        check_classifier(propensity, "propensity")
    elif propensity is not None:
        known, propensity = checked_propensity(propensity, n, log.index), None
    fold = fold_of_rows(log, folds, seed)
    regressor = _regressor_of_amounts(log, amount, features is not None, seed)
    if outcome is None and log.is_pairs and features is None:
        outcome = default_classifier(log, seed)
    learners: dict[str, ClassifierMixin | None] = dict.fromkeys(MOMENTS, outcome)
    if known is None:
        learners["propensity"] = outcome if propensity is None else propensity
    if features is None:  # what is given beside the log is as the classifiers want it
        learners = {k: None if v is None else adapt_learner(v, log) for k, v in learners.items()}
    codes, many = category_columns(log.encoder if features is None else None)
    everyone = np.ones(n, dtype=bool)
    fits: dict[str, FitsByFold] = {}
    for name, learner in learners.items():
        target = MOMENTS[name].observed(log) if name in MOMENTS else log.t
        rows = log.t == MOMENTS[name].arm if name in MOMENTS else everyone
        if learner is not None:
            fits[name] = ClassifierByFold(learner, name, target, rows, fold)
        else:
            fits[name] = ShortStack(name, target, rows, fold, codes=codes, many=many, seed=seed)
    jobs = [(name, k) for name in fits for k in range(int(fold.max()) + 1)]
    with threads_for(n):
        for name, k in track(jobs, total=len(jobs), label="Cross-fitting: fits", enabled=progress):
            fits[name].fit_part(seen, k)
        values = {name: fit.combined() for name, fit in fits.items()}
        if log.outcome is not None:
            alone = amount is not None
            values |= crossfit_amounts(log, seen, fold, values, regressor, alone=alone, progress=progress)
    _tell_of_few_events(fits)
    return LogNuisances.from_means(
        values["propensity"] if known is None else known,
        values,
        propensity_is_known=known is not None,
        cross_fitted=int(fold.max()) > 0,
    )


def _regressor_of_amounts(
    log: IncentiveLog, amount: RegressorMixin | None, features_are_given: bool, seed: int
) -> RegressorMixin | None:
    """Return the regressor of an outcome in money; None for pairs without features, or without such one."""
    if amount is not None:
        if log.outcome is None:
            raise InputError(
                "amount",
                expected="none, as the log has no outcome in money",
                found=describe(amount),
                advice="Give the log its amounts: IncentiveLog(..., outcome=margin).",
            )
        check_regressor(amount, "amount")
        return amount if features_are_given else adapt_learner(amount, log)
    if log.outcome is None:
        return None
    if features_are_given:
        return BoostedRegressor(seed=seed)
    return None if log.is_pairs else default_regressor(log, seed)


def _tell_of_few_events(fits: Mapping[str, FitsByFold]) -> None:
    levels = {"rate": "the rate of all rows", "logistic": "a logistic regression without splines or trees"}
    told = [
        f"{name} by {levels[fit.level]} ({fit.events} rows of the rarer outcome)"
        for name, fit in fits.items()
        if isinstance(fit, ShortStack) and fit.level in levels
    ]
    if told:
        warnings.warn(
            f"Few events: crossfit estimates {', '.join(told)}. So x explains less than it could. "
            "Values stay valid where the propensity is known or well estimated.",
            TrustWarning,
            stacklevel=3,
        )


def fold_of_rows(log: IncentiveLog, folds: int | ArrayLike, seed: int) -> NDArray[np.int64]:
    """Assign each row to a fold, 0, 1, ...: see ``folds`` and ``seed`` of :func:`crossfit`."""
    n, seed = len(log), check_seed(seed)
    if is_one_number(folds):
        k = check_count(folds, "folds", most=n)
        fold = np.zeros(n, dtype=np.int64)
        if k > 1:
            largest = int(np.bincount(log.t).max())
            if k > largest:
                raise InputError(
                    "folds",
                    expected=f"at most {largest}, the number of rows of the larger arm",
                    found=str(k),
                    advice="Each fold needs rows of both arms.",
                )
            cells = np.unique(log.cell, return_inverse=True)[1]
            least = np.bincount(cells).min()
            by = cells if least >= k else log.t
            if log.cluster is None:
                split = StratifiedKFold(k, shuffle=True, random_state=seed).split(cells, by)
            else:
                groups = _enough_groups(log.cluster, k)
                split = StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(cells, by, groups)
            for index, (_, held_out) in enumerate(split):
                fold[held_out] = index
        return fold
    given = aligned_values("folds", folds, log.index, n)
    if given.dtype.kind not in "iu":
        raise InputError("folds", expected=f"integers of shape ({n},)", found=f"dtype {given.dtype}")
    names, fold = label_codes(given)
    if len(names) < 2:
        raise InputError("folds", expected="at least two folds", found=f"all rows in fold {names[0]}")
    return fold


def _enough_groups(cluster: NDArray, k: int) -> NDArray[np.int64]:
    names, member = label_codes(cluster)
    if len(names) < k:
        raise InputError(
            "folds",
            expected=f"at most {len(names)}, the number of clusters",
            found=str(k),
            advice="Rows of one cluster stay in one fold.",
        )
    return member


class FitsByFold(Protocol):
    """Fits of one mean, one for each fold, that predict the rows which they have not seen."""

    def fit_part(self, x: NDArray, k: int) -> None:
        """Fit without fold k, and predict it."""
        ...

    def combined(self) -> NDArray[np.float64]:
        """Return the prediction of every row, shape (n,)."""
        ...


class ClassifierByFold:
    """Clones of one classifier, fitted without one fold each."""

    def __init__(
        self,
        classifier: ClassifierMixin,
        name: str,
        target: NDArray,
        rows: NDArray[np.bool_],
        fold: NDArray[np.int64],
    ) -> None:
        self.classifier, self.name, self.target, self.rows, self.fold = classifier, name, target, rows, fold
        self._values = np.empty(len(target))

    def fit_part(self, x: NDArray, k: int) -> None:
        """See :class:`FitsByFold`."""
        held_out = self.fold == k
        training = training_part(self.rows, self.fold, k, self.name)
        target = self.target[training]
        if target.min() == target.max():  # many classifiers refuse a single class
            self._values[held_out] = float(target[0])
            return
        what = f"{self.name}, fold {k}"
        model = fit_clone(self.classifier, x[training], target, what)
        self._values[held_out] = probabilities_of_one(model, x[held_out], what)

    def combined(self) -> NDArray[np.float64]:
        """See :class:`FitsByFold`."""
        return self._values


def _rows_of(features: ArrayLike, log: IncentiveLog) -> NDArray:
    """Return features in the order of the rows of a log."""
    values = as_array("features", table_at_rows("features", features, len(log), log.index))
    if values.ndim != 2:
        raise InputError("features", expected=f"shape ({len(log)}, p)", found=f"shape {values.shape}")
    return values

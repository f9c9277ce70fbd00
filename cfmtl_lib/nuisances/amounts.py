r"""Cross-fitted means of an outcome in money, in each arm, and a limit of extreme amounts.

Most rows have the amount 0, and a few have large ones. So two predictions are combined by non-negative least
squares on held-out rows, as in the short-stacking of :mod:`cfmtl_lib.nuisances.stacking`. One is a regression
of the amounts on x. The other is the probability of converting, :math:`\mu_t(x)`, times the mean amount of
those who did, plus that of the others:
:math:`\mu_t(x)\,a_1 + (1 - \mu_t(x))\,a_0`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.base import RegressorMixin

from cfmtl_lib.checks import check_number
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log
from cfmtl_lib.nuisances.learner_checks import fit_clone
from cfmtl_lib.nuisances.moments import OUTCOME_MEANS, LogNuisances
from cfmtl_lib.nuisances.stacking import training_part
from cfmtl_lib.runtime.progress import track


def crossfit_amounts(
    log: IncentiveLog,
    x: NDArray,
    fold: NDArray[np.int64],
    converted: Mapping[str, NDArray[np.float64]],
    learner: RegressorMixin | None,
    *,
    alone: bool,
    progress: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Estimate the mean amount of each row in both arms by fits that have not seen it.

    Parameters
    ----------
    log : IncentiveLog
        Log with an outcome in money.
    x : ndarray of shape (n, p)
        Input of the learner.
    fold : ndarray of shape (n,), int64
    converted : mapping of str to ndarray of shape (n,)
        Cross-fitted means ``converted_treated`` and ``converted_untreated``.
    learner : regressor, optional
        Regressor of the amounts, cloned for each arm and fold. Without one, amounts follow conversions.
    alone : bool
        Whether the learner's prediction is taken as it is, and not combined with that by conversions.
    progress : bool
        Whether to report progress on stderr.

    Returns
    -------
    dict of str to ndarray of shape (n,), float64
        Means by name, :data:`~cfmtl_lib.nuisances.moments.OUTCOME_MEANS`.
    """
    assert log.outcome is not None
    amounts, n_folds = log.outcome, int(fold.max()) + 1
    jobs = [(name, k) for name in OUTCOME_MEANS for k in range(n_folds)]
    regressed = {name: np.empty(len(log)) for name in OUTCOME_MEANS}
    by_conversion = {name: np.empty(len(log)) for name in OUTCOME_MEANS}
    for name, k in track(jobs, total=len(jobs), label="Cross-fitting: amounts", enabled=progress):
        rows = training_part(log.t == OUTCOME_MEANS[name], fold, k, name)
        held_out = fold == k
        mean = converted[name.replace("outcome", "converted")][held_out]
        by_conversion[name][held_out] = _by_conversion(mean, amounts[rows], log.y[rows])
        if learner is not None:
            what = f"{name}, fold {k}"
            model = fit_clone(learner, x[rows], amounts[rows], what)
            regressed[name][held_out] = model.predict(x[held_out])
    if learner is None:
        return by_conversion
    if alone:
        return regressed
    return {
        name: combined(
            np.column_stack([regressed[name], by_conversion[name]]), amounts, log.t == OUTCOME_MEANS[name]
        )
        for name in OUTCOME_MEANS
    }


def _by_conversion(
    mean: NDArray[np.float64], amounts: NDArray[np.float64], y: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Predict amounts from the probability of converting, by the mean amounts of training rows."""
    of_buyers, of_others = (
        float(amounts[y == value].mean()) if (y == value).any() else float(amounts.mean()) for value in (1, 0)
    )
    return mean * of_buyers + (1 - mean) * of_others


def combined(
    predictions: NDArray[np.float64], target: NDArray[np.float64], rows: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Combine predictions with the non-negative weights that fit the target best on some rows.

    Parameters
    ----------
    predictions : ndarray of shape (n, k), float64
    target : ndarray of shape (n,), float64
    rows : ndarray of shape (n,), bool

    Returns
    -------
    ndarray of shape (n,), float64
        Predictions of all rows. The mean over ``rows`` is that of the target.

    Examples
    --------
    >>> x = np.array([[1.0, 5.0], [2.0, 1.0], [3.0, 3.0]])
    >>> combined(x, np.array([2.0, 4.0, 6.0]), np.array([True, True, True])).round(6).tolist()
    [2.0, 4.0, 6.0]
    """
    centre, mean = predictions[rows].mean(axis=0), float(target[rows].mean())
    weights, _ = nnls(predictions[rows] - centre, target[rows] - mean)
    return mean + (predictions - centre) @ weights


def amount_means(log: IncentiveLog, nuisances: LogNuisances) -> NDArray[np.float64]:
    """Return the fitted means of the outcome in money, treated and untreated; shape (n, 2).

    Raises
    ------
    InputError
        If the nuisances have none.
    """
    treated, untreated = nuisances.outcome_treated, nuisances.outcome_untreated
    if treated is None or untreated is None:
        raise InputError(
            "nuisances",
            expected="means of the log's outcome in money (outcome_treated, outcome_untreated)",
            found="none",
            advice="cfmtl_lib.crossfit(log) fits them.",
        )
    return np.stack([treated, untreated], axis=1)


def doubly_robust_amounts(
    log: IncentiveLog, nuisances: LogNuisances, propensity: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute AIPW pseudo-outcomes of the amounts, treated and untreated; shape (n, 2).

    Their means given x are those of the arms if the fitted means or the propensity are right.

    Raises
    ------
    InputError
        If the nuisances have no means of the outcome.
    """
    assert log.outcome is not None
    fitted = amount_means(log, nuisances)
    weights = np.stack([(log.t == 1) / propensity, (log.t == 0) / (1 - propensity)], axis=1)
    return fitted + weights * (log.outcome[:, None] - fitted)


def winsorise(log: IncentiveLog, share: float = 0.001) -> IncentiveLog:
    """Move the most extreme amounts of a log to a quantile, and note it.

    A few huge baskets can make up most of the standard error. Moving them lowers it, and changes what is
    estimated: values say by how much. Choose the share before you look at values.

    Parameters
    ----------
    log : IncentiveLog
        Log with an ``outcome``.
    share : float
        Share of the rows at each end whose amounts are moved to the quantile there, in (0, 0.5).

    Returns
    -------
    IncentiveLog
        Log with other amounts, and a text in ``outcome_note`` that is printed beside values.

    Raises
    ------
    LogError
        If the log has no outcome, or one that was winsorised already.
    InputError
        If the share is out of range.

    Examples
    --------
    >>> from cfmtl_lib import IncentiveLog
    >>> log = IncentiveLog(
    ...     [[0.0]] * 4, t=[1, 0, 1, 0], c=[1, 0, 0, 0], y=[1, 1, 0, 1], outcome=[9.0, 2.0, 0.0, 100.0]
    ... )
    >>> winsorise(log, 0.25).outcome.tolist()
    [9.0, 2.0, 1.5, 31.75]
    """
    share = check_number(share, "share", low=0, high=0.5, low_open=True, high_open=True)
    check_log(log)
    if log.outcome is None or log.outcome_note:
        raise LogError(
            "log",
            expected="one with an outcome in money, as it was observed",
            found="none" if log.outcome is None else log.outcome_note,
        )
    low, high = np.quantile(log.outcome, [share, 1 - share])
    moved = np.clip(log.outcome, low, high)
    n_moved = int((moved != log.outcome).sum())
    note = (
        f"outcome winsorised to [{low:.6g}, {high:.6g}]: {n_moved:,} amounts moved, "
        f"sum {log.outcome.sum():.6g} before and {moved.sum():.6g} after"
    )
    return replace(log, outcome=moved, outcome_note=note)

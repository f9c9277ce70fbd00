"""Candidates of an automatic choice: the defaults, their checks, and their fits without each fold."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cfmtl_lib.checks import describe
from cfmtl_lib.deployment.policy_choice import RESERVED
from cfmtl_lib.errors import InputError, TrustWarning
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_v1 import CFMTLv1
from cfmtl_lib.estimators.counterfactual import CFIPS, CFOR
from cfmtl_lib.estimators.latent_strata import LatentStrata
from cfmtl_lib.estimators.likelihood import cell_log_likelihood
from cfmtl_lib.estimators.meta_learners.dr_learner import DRLearner
from cfmtl_lib.estimators.meta_learners.x_learner import XLearner
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.boosted import rarer
from cfmtl_lib.policy.arguments import at_rows
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.value.calibration import FEWEST_EVENTS, members_of


def default_candidates(log: IncentiveLog, *, device: str = "auto", seed: int = 0) -> dict[str, LogEstimator]:
    """Make the models that an automatic choice compares on a log, the simplest first.

    Features get logistic regressions, and boosted trees fitted to means, to imputed effects, to doubly robust
    scores and to the cells of the log. Pairs get the paper's networks, latent strata, and an
    X-learner on encoded ids.

    Parameters
    ----------
    log : IncentiveLog
    device : str or torch.device
        Device of networks.
    seed : int

    Returns
    -------
    dict of str to unfitted estimator
    """
    if log.is_pairs:
        return {
            "CF-OR": CFOR(device=device, seed=seed),
            "CF-IPS": CFIPS(device=device, seed=seed),
            "X-learner": XLearner(seed=seed),
            "CF-MTL-v1": CFMTLv1(device=device, seed=seed),
            "latent strata": LatentStrata(device=device, seed=seed),
        }
    lines: Any = LogisticRegression(max_iter=1000)
    if log.encoder is None:  # columns of a table are prepared by the estimator
        lines = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), lines)
    return {
        "CF-OR, logistic": CFOR(outcome=lines, seed=seed),
        "CF-OR": CFOR(seed=seed),
        "X-learner": XLearner(seed=seed),
        "DR-learner": DRLearner(seed=seed),
        "CF-MTL": CFMTL(device=device, seed=seed),
    }


def check_named(subject: str, models: Any) -> Mapping[str, LogEstimator]:
    """Return a mapping of names to at least one model.

    Raises
    ------
    InputError
        If it is none, or empty.
    """
    if not isinstance(models, Mapping) or not models:
        raise InputError(
            subject,
            expected="a mapping of names to at least one estimator",
            found=describe(models),
            advice='Write {"CF-MTL": cfmtl_lib.CFMTL()}.',
        )
    return models


def check_candidates(candidates: object) -> None:
    """Check that candidates are unfitted estimators by name.

    Raises
    ------
    InputError
        If they are not, or a name is one of :data:`~cfmtl_lib.deployment.policy_choice.RESERVED`.
    """
    for name, model in check_named("candidates", candidates).items():
        if not isinstance(name, str) or name in RESERVED:
            known = ", ".join(map(repr, RESERVED))
            raise InputError("candidates", expected=f"names other than {known}", found=describe(name))
        if not isinstance(model, LogEstimator):
            raise InputError(
                f"candidates[{name!r}]", expected="an unfitted estimator of logs", found=describe(model)
            )


def too_little(log: IncentiveLog, folds: int) -> str:
    """Say why no policy can be learnt and valued on a log; empty where one can.

    Examples
    --------
    >>> too_little(IncentiveLog([[0.1], [0.2]], t=[0, 1], c=[0, 1], y=[0, 1]), folds=5)
    'only 1 treated rows: too few to learn a policy on 5 folds and to value it'
    """
    member = members_of(log.clusters(None), log)
    units = {"treated rows": int(log.t.sum()), "untreated rows": int((log.t == 0).sum())}
    if member is not None:
        units["clusters"] = int(member.max()) + 1
    for name, count in units.items():
        if count < 2 * folds:
            return f"only {count} {name}: too few to learn a policy on {folds} folds and to value it"
    if (events := rarer(log.y)) < FEWEST_EVENTS:
        return f"only {events} of {len(log):,} rows differ from the others in their conversion"
    return ""


class FoldFit(NamedTuple):
    """Fit of a model without some rows, and what it predicts for them.

    Attributes
    ----------
    model : fitted estimator
    rows : ndarray of shape (m,), int64
        Positions of the rows left out.
    reward : ndarray of shape (m,), float64
        Predicted reward.
    log_likelihood : ndarray of shape (m,), float64
        Log-likelihood in nats; NaN where no strata are identified.
    """

    model: LogEstimator
    rows: NDArray[np.int64]
    reward: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]


def fit_without(
    model: LogEstimator,
    log: IncentiveLog,
    left_out: NDArray[np.bool_],
    scenario: str,
    cost: float | NDArray[np.float64],
    conversion_value: float | NDArray[np.float64] | None = None,
) -> FoldFit:
    """Fit a clone of a model to the rows that are not left out, and predict those that are.

    Costs and values are one for all, or one for each row of the log.
    """
    rows = np.flatnonzero(left_out)
    held_out = log.take(rows)
    fitted = clone(model).fit(log.take(~left_out))
    worth = [at_rows(cost, rows)]
    if conversion_value is not None:  # an estimator from elsewhere need not know it
        worth.append(at_rows(conversion_value, rows))
    reward = np.asarray(fitted.predict_reward(held_out.x, scenario, *worth))
    likelihood = np.full(len(rows), np.nan)
    if hasattr(fitted, "predict_strata"):
        likelihood = cell_log_likelihood(fitted.predict_strata(held_out.x), held_out)
    return FoldFit(fitted, rows, reward, likelihood)


@dataclass
class CandidateFits:
    """Fits of candidates without each fold.

    Attributes
    ----------
    models : dict of str to list of fitted estimators
        Fits by candidate, in the order of the folds.
    predicted : dict of str to ndarray of shape (n,), float64
        Predicted reward of each row by the fit without its fold.
    log_likelihood : dict of str to float
        Mean log-likelihood of held-out rows in nats; NaN where no strata are identified.
    notes : dict of str to str
        Reasons for which candidates could not be fitted. These are in none of the others.
    """

    models: dict[str, list[LogEstimator]] = field(default_factory=dict)
    predicted: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    log_likelihood: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def fit_by_fold(
    candidates: Mapping[str, LogEstimator],
    log: IncentiveLog,
    fold: NDArray[np.int64],
    *,
    scenario: str,
    cost: float,
    conversion_value: float | None = None,
    progress: bool = False,
) -> CandidateFits:
    """Fit each candidate without each fold, and predict the fold."""
    made, n_folds = CandidateFits(), int(fold.max()) + 1
    jobs = [(name, k) for name in candidates for k in range(n_folds)]
    for name, k in track(jobs, total=len(jobs), label="Candidates: fits", enabled=progress):
        if name in made.notes:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustWarning)  # candidates are judged by what they earn
            try:
                fit = fit_without(candidates[name], log, fold == k, scenario, cost, conversion_value)
            except InputError as error:
                made.notes[name] = str(error)
                for part in (made.models, made.predicted, made.log_likelihood):
                    part.pop(name, None)
                continue
        made.models.setdefault(name, []).append(fit.model)
        made.predicted.setdefault(name, np.empty(len(log)))[fit.rows] = fit.reward
        nats = float(fit.log_likelihood.sum()) / len(log)
        made.log_likelihood[name] = made.log_likelihood.get(name, 0.0) + nats
    return made

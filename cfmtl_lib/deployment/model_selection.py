"""Model selection by what a log shows, without true strata: likelihood, policy value, calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from cfmtl_lib.checks import check_count, check_flag, describe
from cfmtl_lib.deployment.candidate_fits import check_named, fit_without
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.estimators.likelihood import cell_probabilities
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log, labels_by_row
from cfmtl_lib.nuisances.cross_fitting import crossfit, fold_of_rows
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.allocation import allocate, check_share
from cfmtl_lib.policy.arguments import check_cost, check_costs, check_strata_probability
from cfmtl_lib.policy.rewards import payment_of, unit_of
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.strata import CELLS
from cfmtl_lib.value.calibration import quantile_bins, tell_of_scores
from cfmtl_lib.value.estimates import mean_estimate, policy_value
from cfmtl_lib.value.scores import unit_scores


def compare_models(
    log: IncentiveLog,
    models: Mapping[str, LogEstimator],
    *,
    folds: int | ArrayLike = 5,
    scenario: str = "coupon",
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    budget: float = PAPER.budget,
    nuisances: LogNuisances | None = None,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Cross-validate models by the likelihood of held-out rows and the AIPW value of their policies.

    Parameters
    ----------
    log : IncentiveLog
    models : mapping of str to estimator
        Unfitted models by name: other classes, or one class with other parameters.
    folds : int or array_like of shape (n,), integer
        See :func:`~cfmtl_lib.nuisances.cross_fitting.crossfit`; clusters of the log stay together.
    scenario, cost, conversion_value
        Scenario, cost and value of the reward that the policies maximise, as in
        :func:`~cfmtl_lib.value.estimates.policy_value`.
    budget : float
        Largest share of rows that are treated, within each fold.
    nuisances : LogNuisances, optional
        Nuisances of the policy values, the same for all models; cross-fitted on the same folds if left out.
    clusters : array_like of shape (n,), optional
        See :func:`~cfmtl_lib.value.estimates.policy_value`.
    seed : int
        Seed of folds and nuisances.
    progress : bool
        Whether to report progress on stderr.

    Returns
    -------
    DataFrame
        One row per model, in the order given. ``log_likelihood`` is in nats per row (NaN where no strata are
        identified), ``value`` in ``attrs["unit"]`` per row. For each, ``_error`` is the standard error,
        ``_behind`` the distance to the best model, and ``_behind_error`` the standard error of this paired
        difference.
        Standard errors take the fitted models as given. ``attrs["cautions"]`` lists reasons, seen in the
        log, not to trust them.

    Raises
    ------
    InputError
        If there are no models, or folds or nuisances do not fit the log.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> from cfmtl_lib.estimators.counterfactual import CFOR
    >>> from cfmtl_lib.estimators.baselines import Naive
    >>> from sklearn.linear_model import LogisticRegression
    >>> log = simulated_features(4000, seed=2).log
    >>> models = {"CF-OR": CFOR(outcome=LogisticRegression()), "Naive": Naive()}
    >>> table = compare_models(log, models, cost=0.4, folds=2)
    >>> table.index[table["value_behind"] == 0].tolist()
    ['CF-OR']
    """
    check_log(log)
    for name, model in check_named("models", models).items():
        if isinstance(model, type) or not hasattr(model, "predict_reward"):
            raise InputError(f"models[{name!r}]", expected="an unfitted estimator", found=describe(model))
    n, labels, budget = len(log), log.clusters(clusters), check_share(budget)
    costs, value = check_costs(cost, n, index=log.index), conversion_value
    if value is not None:
        value = check_costs(value, n, "conversion_value", log.index)
    progress = check_flag(progress, "progress")
    fold = fold_of_rows(log, folds, seed)
    if nuisances is None:
        nuisances = crossfit(log, folds=fold, seed=seed, progress=progress)
    scores = unit_scores(log, nuisances)
    reward = scores.reward(scenario, costs, value)
    told = tell_of_scores("compare_models", log, nuisances, scores, np.ones(n), labels)
    likelihood = {name: np.full(n, np.nan) for name in models}
    treated = {name: np.zeros(n, dtype=bool) for name in models}
    jobs = [(name, k) for name in models for k in range(int(fold.max()) + 1)]
    for name, k in track(jobs, total=len(jobs), label="Comparing: fits", enabled=progress):
        fit = fit_without(models[name], log, fold == k, scenario, costs, value)
        treated[name][fit.rows] = allocate(fit.reward, budget)
        likelihood[name][fit.rows] = fit.log_likelihood
    earned = {name: treat * reward for name, treat in treated.items()}
    table = pd.concat(
        [
            _against_best("log_likelihood", likelihood, labels),
            _against_best("value", earned, labels),
        ],
        axis=1,
    )
    table.attrs |= {"cautions": told, "unit": unit_of(conversion_value, log.outcome is not None)}
    return table


def _against_best(
    what: str, of_model: Mapping[str, NDArray[np.float64]], clusters: ArrayLike | None
) -> pd.DataFrame:
    """Compute the mean of each model's rows, and its paired distance from the largest."""
    means = {name: values.mean() for name, values in of_model.items() if not np.isnan(values).any()}
    best = max(means, key=means.__getitem__) if means else None
    found = {}
    for name, values in of_model.items():
        if best is None or name not in means:
            found[name] = [np.nan] * 4
            continue
        mean = mean_estimate(values, clusters=clusters)
        behind = mean_estimate(of_model[best] - values, clusters=clusters)
        found[name] = [mean.value, mean.standard_error, behind.value, behind.standard_error]
    columns = [what, f"{what}_error", f"{what}_behind", f"{what}_behind_error"]
    return pd.DataFrame.from_dict(found, orient="index", columns=columns).rename_axis("model")


def policy_value_scorer(
    scenario: str = "coupon",
    *,
    cost: float,
    conversion_value: float | None = None,
    budget: float = PAPER.budget,
    folds: int = 5,
) -> Callable[[BaseEstimator, ArrayLike, ArrayLike], float]:
    """Make a scorer for ``GridSearchCV``: the AIPW value of the estimator's policy on the held-out rows.

    Nuisances are cross-fitted on the held-out rows anew for each candidate. :func:`compare_models` shares
    them and gives standard errors. Cost and value are one for all rows: a search passes none for each.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> from cfmtl_lib.estimators.baselines import OR
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> log = simulated_features(600, seed=3).log
    >>> grid = {"outcome": [LogisticRegression(C=0.001), LogisticRegression(C=1.0)]}
    >>> search = GridSearchCV(OR(), grid, scoring=policy_value_scorer(cost=0.4), cv=2)
    >>> search.fit(log.x, np.column_stack([log.t, log.c, log.y])).best_params_
    {'outcome': LogisticRegression()}
    """
    payment_of(scenario)
    budget, folds = check_share(budget), check_count(folds, "folds", least=2)
    worth: dict[str, Any] = {"scenario": scenario, "cost": check_cost(cost)}
    if conversion_value is not None:
        worth["conversion_value"] = check_cost(conversion_value, "conversion_value")

    def score(estimator: BaseEstimator, x: ArrayLike, y: ArrayLike) -> float:
        schema = getattr(estimator, "schema_", None)  # a Pipeline has none, and prepares features
        log = IncentiveLog.from_xy(x, y, pairs=schema is not None and schema.pair_space is not None)
        treat = allocate(estimator.predict(x, **worth), budget)
        return policy_value(treat, log, crossfit(log, folds=folds), **worth).value

    return score


def cell_calibration(
    strata_probability: ArrayLike,
    log: IncentiveLog,
    *,
    bins: int = 10,
    clusters: ArrayLike | None = None,
) -> pd.DataFrame:
    """Compare predicted and observed frequencies of the six observable cells, in bins of the prediction.

    Parameters
    ----------
    strata_probability : array_like of shape (n, 5)
        Strata probabilities at the rows of the log, from a model that was not fitted to them.
    log : IncentiveLog
    bins : int
        Number of bins with equal numbers of rows, at least 1; ties can leave fewer.
    clusters : array_like of shape (n,), optional
        See :func:`~cfmtl_lib.value.estimates.policy_value`.

    Returns
    -------
    DataFrame
        Columns ``treated``, ``collected``, ``converted`` (the cell), ``predicted`` (mean, given the arm),
        ``observed``, ``standard_error`` (of observed minus predicted) and ``rows``. Only rows of the cell's
        arm count. Bins of fewer than two rows or clusters are left out. Calibration is necessary, not
        sufficient: it does not show confusion between strata that share a cell.

    Raises
    ------
    InputError
        If shapes differ or bins is below 1.
    """
    bins = check_count(bins, "bins", most=len(check_log(log)))
    p = check_strata_probability(strata_probability, len(check_log(log)), log.index)
    predicted = cell_probabilities(p, log.t)
    labels = log.clusters(clusters)
    together = None if labels is None else labels_by_row("clusters", labels, len(log))[1]
    found = []
    for k, cell in enumerate(CELLS):
        rows = np.flatnonzero(log.t == cell[0])
        values = predicted[rows, k]
        for part in quantile_bins(values, bins):
            chosen = rows[part]
            if len(chosen) < 2:
                continue
            observed = (log.cell[chosen] == k).astype(np.float64)
            gap = observed - predicted[chosen, k]
            groups = None if together is None else together[chosen]
            if groups is not None and len(np.unique(groups)) < 2:
                continue
            error = mean_estimate(gap, clusters=groups).standard_error
            found.append([*cell, predicted[chosen, k].mean(), observed.mean(), error, len(chosen)])
    names = ["treated", "collected", "converted", "predicted", "observed", "standard_error", "rows"]
    return pd.DataFrame(found, columns=names)

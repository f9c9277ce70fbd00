"""Monte Carlo evidence: bias of the estimated strata shares, coverage of the intervals of policy values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from threadpoolctl import threadpool_limits

from cfmtl_lib.checks import check_count, check_seed
from cfmtl_lib.datasets.simulation_features import (
    POINTS,
    FeatureStudy,
    means_of,
    propensities,
    simulated_features,
    strata_probabilities,
)
from cfmtl_lib.experiments.evaluation.stacked_logs import N_FOLDS, NUISANCES, frequency_nuisances, stacked_log
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.rewards import SCENARIOS, stratum_rewards
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.provenance import RunRecord, save_results
from cfmtl_lib.strata import COUPON_BUYER, STRATA
from cfmtl_lib.value.estimates import Estimate, policy_value, policy_value_difference
from cfmtl_lib.value.finite_sample import reward_lower_bound
from cfmtl_lib.value.scores import unit_scores


def share_bias(n_replications: int = 500, n: int = 5000, seed: int = 0) -> pd.DataFrame:
    """Measure the bias of CF-OR, CF-IPS and CF-DR for the strata shares, with nuisances right and wrong.

    Each replication is a log of :func:`~cfmtl_lib.datasets.simulation_features.simulated_features`. Right
    nuisances are frequencies at each of the 32 values of x, in the other four folds. Wrong ones ignore x. All
    replications are computed as one array.

    Parameters
    ----------
    n_replications : int
    n : int
        Number of rows of each log.
    seed : int

    Returns
    -------
    DataFrame
        Columns ``nuisances``, ``estimator``, ``stratum``, ``truth``, ``bias``, ``standard_error`` (Monte
        Carlo, of the bias), ``sd`` (of the estimator), ``replications``.

    Examples
    --------
    >>> table = share_bias(n_replications=20, n=2000)
    >>> sorted(table["estimator"].unique())
    ['CF-DR', 'CF-IPS', 'CF-OR']
    """
    n_replications, n = check_count(n_replications, "n_replications"), check_count(n, "n", least=100)
    rng = np.random.default_rng([check_seed(seed), 1])
    log = stacked_log(n_replications * n, rng)
    replication = np.repeat(np.arange(n_replications), n)
    fold = np.tile(np.arange(n) % N_FOLDS, n_replications)
    truth = strata_probabilities().mean(axis=0)
    rows = []
    for name, (outcome, propensity) in NUISANCES.items():
        means = frequency_nuisances(log, replication, fold, outcome, propensity)
        zero = np.zeros(len(log))
        no_regression = LogNuisances(means.propensity, zero, zero, zero, zero, means.propensity_is_known)
        by_unit = {
            "CF-OR": means.predicted_strata(),
            "CF-IPS": unit_scores(log, no_regression).strata(),
            "CF-DR": unit_scores(log, means).strata(),
        }
        for estimator, units in by_unit.items():
            shares = units.reshape(n_replications, n, len(STRATA)).mean(axis=1)
            for s, stratum in enumerate(STRATA):
                sd = float(shares[:, s].std(ddof=1))
                rows.append(
                    {
                        "nuisances": name,
                        "estimator": estimator,
                        "stratum": stratum,
                        "truth": float(truth[s]),
                        "bias": float(shares[:, s].mean() - truth[s]),
                        "standard_error": sd / np.sqrt(n_replications),
                        "sd": sd,
                        "replications": n_replications,
                    }
                )
    return pd.DataFrame(rows)


class Target(NamedTuple):
    """Quantity that an interval should cover: the value of a policy, or the difference of two."""

    name: str
    treat: NDArray[np.float64]
    other: NDArray[np.float64] | None
    scenario: str


def smooth_classifier() -> ClassifierMixin:
    """Make a logistic regression on features and their products: the classifier of :func:`coverage`."""
    return make_pipeline(
        PolynomialFeatures(degree=2, interaction_only=True, include_bias=False),
        LogisticRegression(C=10.0, max_iter=500),
    )


def coverage(
    n_replications: int = 500,
    n: int = 5000,
    *,
    classifier: ClassifierMixin | None = None,
    folds: int = N_FOLDS,
    n_noise: int = 0,
    level: float = 0.95,
    seed: int = 0,
    n_jobs: int = 2,
) -> pd.DataFrame:
    """Measure how often intervals of policy values, and of paired differences, contain the truth.

    Parameters
    ----------
    n_replications : int
    n : int
        Number of rows of each log.
    classifier : classifier, optional
        Classifier for all nuisances; :func:`smooth_classifier` if left out. The propensity is estimated, not
        known.
    folds : int
        Number of cross-fitting folds; 1 switches cross-fitting off.
    n_noise : int
        Number of pure noise features that the classifiers see besides the five.
    level : float
    seed : int
    n_jobs : int
        Number of processes; the table does not depend on it.

    Returns
    -------
    DataFrame
        Columns ``target``, ``scenario``, ``truth``, ``bias``, ``bias_se`` (Monte Carlo), ``sd``,
        ``mean_se``, ``coverage``, ``low`` and ``high`` (99 % binomial range of a right coverage),
        ``replications``.
    """
    classifier = smooth_classifier() if classifier is None else classifier
    n_replications, seed = check_count(n_replications, "n_replications", least=2), check_seed(seed)
    found = joblib.Parallel(n_jobs=n_jobs)(
        joblib.delayed(_one_replication)([seed, index], n, classifier, folds, n_noise, level)
        for index in range(n_replications)
    )
    rows = []
    for k, target in enumerate(_targets(np.arange(len(POINTS)))):
        more = target.treat - (0.0 if target.other is None else target.other)
        truth = float((more * _true_rewards(target.scenario)).mean())
        values, errors, lower, upper = np.array([part[k] for part in found]).T
        sd = float(values.std(ddof=1))
        low, high = binomial_range(n_replications, level)
        rows.append(
            {
                "target": target.name,
                "scenario": target.scenario,
                "truth": truth,
                "bias": float(values.mean()) - truth,
                "bias_se": sd / np.sqrt(n_replications),
                "sd": sd,
                "mean_se": float(errors.mean()),
                "coverage": float(((lower <= truth) & (truth <= upper)).mean()),
                "low": low,
                "high": high,
                "replications": n_replications,
            }
        )
    return pd.DataFrame(rows)


def bound_tightness(
    n_replications: int = 500,
    sizes: Sequence[int] = (500, 2000, 5000, 20_000),
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how often the finite-sample bound of the reward holds, and its gap to the truth.

    Parameters
    ----------
    n_replications : int
        Number of logs of each size.
    sizes : sequence of int
        Numbers of rows of the logs.
    confidence : float
    seed : int

    Returns
    -------
    DataFrame
        Columns ``n, scenario, truth, held, mean_bound, mean_gap, mean_se, replications``. ``held`` is the
        share of the logs in which the bound is below the truth. ``mean_gap`` is truth less bound, ``mean_se``
        the mean standard error of the estimate. The policy treats the 13 of 32 values of x with most coupon
        buyers. The propensity is known, and the conditional means are right.
    """
    least = float(np.minimum(propensities(), 1 - propensities()).min())
    n_replications, seed = check_count(n_replications, "n_replications"), check_seed(seed)
    rows = []
    for n in sizes:
        for scenario in SCENARIOS:
            target = _best_13(strata_probabilities()[:, COUPON_BUYER])
            truth = float((target * _true_rewards(scenario)).mean())
            bounds, errors = [], []
            for index in range(n_replications):
                study = _drawn([seed, n, index], n)
                treat = target[study.point]
                found = reward_lower_bound(
                    treat,
                    study.log,
                    study.true_nuisances,
                    least_propensity=least,
                    scenario=scenario,
                    cost=PAPER.cost,
                )
                bounds.append(found.bound)
                value = policy_value(
                    treat, study.log, study.true_nuisances, scenario=scenario, cost=PAPER.cost
                )
                errors.append(value.standard_error)
            rows.append(
                {
                    "n": n,
                    "scenario": scenario,
                    "truth": truth,
                    "held": float((np.array(bounds) <= truth).mean()),
                    "mean_bound": float(np.mean(bounds)),
                    "mean_gap": truth - float(np.mean(bounds)),
                    "mean_se": float(np.mean(errors)),
                    "replications": n_replications,
                }
            )
    return pd.DataFrame(rows)


def monte_carlo(
    n_replications: int = 500,
    n: int = 5000,
    *,
    results_dir: str | Path | None = None,
    seed: int = 0,
    n_jobs: int = 2,
) -> dict[str, pd.DataFrame]:
    """Compute all Monte Carlo evidence of the book.

    Parameters
    ----------
    n_replications : int
        Number of replications of the coverage study and of the bound. The bias has at least 500.
    n : int
        Number of rows of a log.
    results_dir : str or Path, optional
        Folder for ``monte_carlo/share_bias.csv``, ``monte_carlo/coverage.csv``,
        ``monte_carlo/bound_tightness.csv`` and their provenance. Nothing is written if left out.
    seed : int
    n_jobs : int

    Returns
    -------
    dict of str to DataFrame
        Keys "share_bias", "coverage" and "bound_tightness": see the functions of these names.
    """
    folder = None if results_dir is None else Path(results_dir) / "monte_carlo"
    record = RunRecord(
        command="cfmtl_lib.experiments.evaluation.monte_carlo.monte_carlo("
        f"{n_replications}, {n}, seed={seed}, results_dir='results')",
        seeds=[seed],
        folder=folder,
    )
    tables = {
        "share_bias": share_bias(max(n_replications, 500), n, seed),
        "coverage": coverage(n_replications, n, seed=seed, n_jobs=n_jobs),
        "bound_tightness": bound_tightness(n_replications, seed=seed),
    }
    if folder is not None:
        population = strata_probabilities().tobytes() + propensities().tobytes()
        provenance = record.finish(
            data_fingerprint=hashlib.sha256(population).hexdigest(),
            protocol={"level": 0.95, "cost": PAPER.cost},
        )
        save_results(tables, folder, provenance)
    return tables


def binomial_range(n_replications: int, level: float, probability: float = 0.99) -> tuple[float, float]:
    """Compute the range of the observed coverage of right intervals, with the given probability.

    Examples
    --------
    >>> binomial_range(500, 0.95)
    (0.924, 0.974)
    """
    tail = (1 - probability) / 2
    low, high = stats.binom.ppf([tail, 1 - tail], n_replications, level) / n_replications
    return float(low), float(high)


def _best_13(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Treat the 13 of the 32 values of x (two fifths) that score highest."""
    return (score >= np.sort(score)[-13]).astype(np.float64)


def _true_rewards(scenario: str) -> NDArray[np.float64]:
    rewards: NDArray[np.float64] = strata_probabilities() @ stratum_rewards(scenario, PAPER.cost)
    return rewards


def _drawn(seed: Sequence[int], n: int) -> FeatureStudy:
    return simulated_features(n, int(np.random.SeedSequence(seed).generate_state(1)[0]))


def _targets(point: NDArray[np.int64]) -> list[Target]:
    """List policies that depend on x only, at the rows with these values of x."""
    p = strata_probabilities()
    by_coupon_buyer = _best_13(p[:, COUPON_BUYER])[point]
    by_response = _best_13(means_of(p)["converted_treated"])[point]
    everyone = np.ones(len(point))
    return [
        Target("everyone", everyone, None, "coupon"),
        Target("coupon buyers, 40 %", by_coupon_buyer, None, "coupon"),
        Target("coupon buyers, 40 %", by_coupon_buyer, None, "cash"),
        Target("half of everyone, by lot", everyone / 2, None, "cash"),
        Target("coupon buyers - response", by_coupon_buyer, by_response, "coupon"),
        Target("coupon buyers - response", by_coupon_buyer, by_response, "cash"),
    ]


def _one_replication(
    seed: Sequence[int], n: int, classifier: ClassifierMixin, folds: int, n_noise: int, level: float
) -> list[tuple[float, float, float, float]]:
    study = _drawn(seed, n)
    # The log knows its propensity; here it must be estimated like everything else.
    log = replace(study.log, propensity=None)
    noise = np.random.default_rng([*seed, 1]).normal(size=(n, n_noise))
    with threadpool_limits(1):  # a small fit loses more to threads than it gains
        nuisances = crossfit(
            log,
            outcome=classifier,
            propensity=classifier,
            features=np.hstack([log.x, noise]),
            folds=folds,
            seed=seed[-1],
        )
    found: list[Estimate] = []
    for target in _targets(study.point):
        value: Estimate
        if target.other is None:
            value = policy_value(
                target.treat, log, nuisances, scenario=target.scenario, level=level, cost=PAPER.cost
            )
        else:
            value = policy_value_difference(
                target.treat,
                target.other,
                log,
                nuisances,
                scenario=target.scenario,
                level=level,
                cost=PAPER.cost,
            )
        found.append(value)
    return [(value.value, value.standard_error, value.lower, value.upper) for value in found]

"""Coverage of the intervals that a log gets by default, in worlds that are easy or hard for them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.checks import check_count, check_seed
from cfmtl_lib.errors import TrustWarning, check_choice
from cfmtl_lib.experiments.evaluation.worlds import WORLDS, Drawn, draw_log
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.policy.rewards import stratum_rewards
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.provenance import RunRecord, save_results
from cfmtl_lib.strata import COUPON_BUYER
from cfmtl_lib.value.curves import budget_curve
from cfmtl_lib.value.estimates import policy_value, policy_value_difference, strata_shares

QUANTITIES = ("everyone", "rule", "rule - other rule", "coupon buyers", "uniform band")
"""Values of two policies, the paired difference of two, a stratum's share, and a whole curve."""

BUDGETS = np.round(np.linspace(0, 1, 11), 1)
ROWS_OF_TRUTH = 400_000

COLUMNS = [
    "world",
    "quantity",
    "n",
    "truth",
    "bias",
    "sd",
    "mean_se",
    "coverage",
    "cautioned",
    "replications",
]


class Replication(NamedTuple):
    """Estimates of one log.

    Attributes
    ----------
    estimates : ndarray of shape (4, 4)
        Value, standard error and both limits of the first four :data:`QUANTITIES`.
    lower, upper : ndarray of shape (11,)
        Uniform band at :data:`BUDGETS`.
    cautioned : ndarray of shape (5,), bool
        Whether the result of each quantity names a reason not to trust it.
    """

    estimates: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    cautioned: NDArray[np.bool_]


def interval_coverage(
    n_replications: int = 300,
    worlds: Sequence[str] = tuple(WORLDS),
    *,
    results_dir: str | Path | None = None,
    seed: int = 0,
    n_jobs: int = 2,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how often 95 % intervals with default nuisances cover the truth, and how often they caution.

    Parameters
    ----------
    n_replications : int
        Number of logs of each world.
    worlds : sequence of str
        Names from :data:`~cfmtl_lib.experiments.evaluation.worlds.WORLDS`.
    results_dir : str or Path, optional
        Folder for ``monte_carlo/interval_coverage.csv`` and its provenance. Nothing is written if left out.
    seed : int
    n_jobs : int
        Number of processes; the table does not depend on it.
    progress : bool
        Whether to report progress on stderr.

    Returns
    -------
    DataFrame
        Columns :data:`COLUMNS`, a row for each world and quantity. ``coverage`` is the share of the logs
        whose interval, or whole band, holds the truth. ``cautioned`` is the share whose result is marked as
        not reliable. Bias and errors are NaN for the band.

    Raises
    ------
    UnknownNameError
        If a world is unknown.
    """
    n_replications, seed = check_count(n_replications, "n_replications", least=2), check_seed(seed)
    names = [check_choice("world", name, WORLDS) for name in worlds]
    record = RunRecord(
        command="cfmtl_lib.experiments.evaluation.interval_coverage.interval_coverage("
        f"{n_replications}, seed={seed}, results_dir='results')",
        seeds=[seed],
    )
    rows = []
    with joblib.Parallel(n_jobs=n_jobs, return_as="generator") as parallel:
        for name in names:
            jobs = (joblib.delayed(_replicate)(name, [seed, k]) for k in range(n_replications))
            logs = list(track(parallel(jobs), total=n_replications, label=name, enabled=progress))
            rows += _summary(name, logs, seed)
    table = pd.DataFrame(rows, columns=COLUMNS)
    if results_dir is not None:
        first = b"".join(draw_log(WORLDS[name], [seed, 0]).log.x.tobytes() for name in names)
        provenance = record.finish(
            data_fingerprint=hashlib.sha256(first).hexdigest(),
            protocol={"level": 0.95, "cost": PAPER.cost, "scenario": "coupon", "worlds": names},
        )
        save_results({"interval_coverage": table}, Path(results_dir) / "monte_carlo", provenance)
    return table


def _policies(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return two rules and a score that are fixed before any log is seen."""
    score = x[:, 0] + 0.5 * x[:, 3]
    return (score > 0.25).astype(float), (x[:, 4] - 0.4 * x[:, 0] > 0.3).astype(float), score


def _replicate(name: str, seed: list[int]) -> Replication:
    drawn = draw_log(WORLDS[name], seed)
    log = drawn.log
    rule, other, score = _policies(drawn.x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)  # counted below
        nuisances = crossfit(log, seed=seed[-1])
        values = [
            policy_value(np.ones(len(log)), log, nuisances, cost=PAPER.cost),
            policy_value(rule, log, nuisances, cost=PAPER.cost),
            policy_value_difference(rule, other, log, nuisances, cost=PAPER.cost),
        ]
        shares = strata_shares(log, nuisances)
        curve = budget_curve(
            score,
            log,
            nuisances,
            cost=PAPER.cost,
            budgets=BUDGETS,
            only_positive=False,
            n_bootstrap=200,
            n_jobs=1,
        )
    estimates = [[v.value, v.standard_error, v.lower, v.upper] for v in values]
    estimates.append(shares.iloc[COUPON_BUYER].to_numpy().tolist())
    cautions = [*(v.cautions for v in values), shares.attrs["cautions"], curve.cautions]
    return Replication(
        np.array(estimates),
        curve.lower_uniform,
        curve.upper_uniform,
        np.array([bool(found) for found in cautions]),
    )


def _summary(name: str, logs: list[Replication], seed: int) -> list[list[object]]:
    truth, curve = _truth(draw_log(WORLDS[name], [seed, 10**6], ROWS_OF_TRUTH))
    cautioned = np.mean([log.cautioned for log in logs], axis=0)
    estimates = np.stack([log.estimates for log in logs])
    rows: list[list[object]] = []
    for k, quantity in enumerate(QUANTITIES):
        if k < len(truth):
            value, error, lower, upper = estimates[:, k].T
            covers = (lower <= truth[k]) & (truth[k] <= upper)
            found = [truth[k], value.mean() - truth[k], value.std(ddof=1), error.mean()]
        else:
            covers = np.array([((log.lower <= curve) & (curve <= log.upper)).all() for log in logs])
            found = [np.nan] * 4
        n = WORLDS[name].n
        rows.append([name, quantity, n, *found, covers.mean(), cautioned[k], len(logs)])
    return rows


def _truth(population: Drawn) -> tuple[list[float], NDArray[np.float64]]:
    """Compute the first four quantities and the curve in a log so large that its error does not count."""
    reward = population.strata_probability @ stratum_rewards("coupon", PAPER.cost)
    rule, other, score = _policies(population.x)
    values = [
        reward.mean(),
        (rule * reward).mean(),
        ((rule - other) * reward).mean(),
        population.strata_probability[:, COUPON_BUYER].mean(),
    ]
    in_order = np.concatenate([[0.0], np.cumsum(reward[np.argsort(-score)])]) / len(reward)
    return [float(v) for v in values], in_order[np.round(BUDGETS * len(reward)).astype(int)]

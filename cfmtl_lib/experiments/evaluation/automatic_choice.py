"""What the automatic choice earns in worlds that suit different learners, beside each learner alone."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from cfmtl_lib.checks import check_count
from cfmtl_lib.deployment.auto_policy import AutoPolicy
from cfmtl_lib.deployment.candidate_fits import default_candidates
from cfmtl_lib.errors import TrustWarning, check_choice
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.experiments.evaluation.learner_worlds import LEARNER_WORLDS, RARE, draw_population
from cfmtl_lib.policy.allocation import allocate
from cfmtl_lib.policy.rewards import expected_reward
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.fit_cache import FitCache
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.provenance import RunRecord, commit, save_results
from cfmtl_lib.value.estimates import mean_estimate

AUTOMATIC = "AutoPolicy"

PLAN = {10_000: (5, 20), 50_000: (2, 2)}
"""Numbers of logs of each size: in the worlds where incentives pay, and in the rare ones."""

COLUMNS = [
    "world",
    "rows",
    "seed",
    "policy",
    "reward",
    "oracle",
    "share_treated",
    "seconds",
    "chosen",
    "nobody",
    "value",
    "standard_error",
    "true_value",
]


def automatic_choice(
    plan: Mapping[int, tuple[int, int]] | None = None,
    worlds: Sequence[str] = tuple(LEARNER_WORLDS),
    *,
    scenario: str = "coupon",
    candidates: Mapping[str, LogEstimator] | None = None,
    later_rows: int = 50_000,
    results_dir: str | Path | None = None,
    fits_dir: str | Path | None = None,
    n_jobs: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Fit the automatic choice and each of its candidates to logs of worlds, and judge them by the truth.

    Parameters
    ----------
    plan : mapping of int to (int, int), optional
        Numbers of logs by number of rows: in worlds where incentives pay, and in rare ones. :data:`PLAN` if
        left out. Seeds are 0, 1, ...
    worlds : sequence of str
        Names from :data:`~cfmtl_lib.experiments.evaluation.learner_worlds.LEARNER_WORLDS`.
    scenario : {"coupon", "cash"}
    candidates : mapping of str to estimator, optional
        Candidates of the choice; its defaults if left out.
    later_rows : int
        Number of rows of another draw that policies are judged on.
    results_dir : str or Path, optional
        Folder for ``simulated-worlds/automatic_choice.csv`` and its provenance. Nothing is written if left
        out.
    fits_dir : str or Path, optional
        Folder that keeps the rows of each log, so that an interrupted run of one commit continues.
    n_jobs : int
        Number of processes; the rewards do not depend on it.
    progress : bool
        Whether to report progress on stderr.

    Returns
    -------
    DataFrame
        Columns :data:`COLUMNS`, a row for each log and policy. ``reward`` is the true expected reward a later
        row, against nobody, with at most 40 % treated at a cost of 0.4; ``oracle`` that of the policy that
        knows the strata probabilities. For the automatic choice, ``value`` is what it tells of itself, and
        ``true_value`` the truth about the same out-of-fold policy.

    Raises
    ------
    InputError
        If a world is unknown, or a number of logs or rows is below 1.
    """
    plan = dict(PLAN if plan is None else plan)
    names = [check_choice("world", name, LEARNER_WORLDS) for name in worlds]
    jobs = [
        (name, check_count(n, "rows"), seed)
        for n, (paying, rare) in plan.items()
        for name in names
        for seed in range(check_count(rare if name in RARE else paying, "logs"))
    ]
    folder = None if results_dir is None else Path(results_dir) / "simulated-worlds"
    record = RunRecord(
        "cfmtl_lib.experiments.evaluation.automatic_choice.automatic_choice("
        f"{plan!r}, scenario={scenario!r}, results_dir='results')",
        sorted({seed for *_, seed in jobs}),
        folder,
    )
    work = partial(
        _rows_of_log, scenario=scenario, candidates=candidates, later_rows=later_rows, fits_dir=fits_dir
    )
    with joblib.Parallel(n_jobs=n_jobs, return_as="generator") as parallel:
        done = parallel(joblib.delayed(work)(*job) for job in jobs)
        found = list(track(done, total=len(jobs), label="Automatic choice: logs", enabled=progress))
    table = pd.DataFrame([row for rows in found for row in rows], columns=COLUMNS)
    if folder is not None:
        facts = {"scenario": scenario, "cost": PAPER.cost, "budget": PAPER.budget, "later_rows": later_rows}
        save_results(
            {"automatic_choice": table}, folder, record.finish("drawn by the command", protocol=facts)
        )
    return table


def _rows_of_log(
    world: str,
    n: int,
    seed: int,
    *,
    scenario: str,
    candidates: Mapping[str, LogEstimator] | None,
    later_rows: int,
    fits_dir: str | Path | None,
) -> list[dict[str, Any]]:
    make = partial(_judged, world, n, seed, scenario, candidates, later_rows)
    key = {"world": world, "n": n, "seed": seed, "scenario": scenario, "later_rows": later_rows}
    named = None if candidates is None else dict(candidates)
    cache = FitCache(fits_dir)
    return cache(make, fit="automatic choice", commit=commit(), candidates=named, **key)


def _judged(
    world: str,
    n: int,
    seed: int,
    scenario: str,
    candidates: Mapping[str, LogEstimator] | None,
    later_rows: int,
) -> list[dict[str, Any]]:
    drawn, later = draw_population(world, n, seed), draw_population(world, later_rows, 10_000 + seed)
    reward = expected_reward(later.strata_probability, scenario, PAPER.cost)
    about = {"world": world, "rows": n, "seed": seed}
    about["oracle"] = float((allocate(reward, PAPER.budget) * reward).mean())
    alone = default_candidates(drawn.log, seed=seed) if candidates is None else dict(candidates)
    auto = AutoPolicy(
        scenario=scenario, cost=PAPER.cost, budget=PAPER.budget, candidates=candidates, seed=seed
    )
    rows = []
    for name, model in (alone | {AUTOMATIC: auto}).items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustWarning)  # of rare worlds, as they should be
            model.fit(drawn.log)
        predicted = model.predict_reward(later.x, scenario, PAPER.cost)
        treat = allocate(predicted, PAPER.budget, seed=seed)
        rows.append(
            about
            | {
                "policy": name,
                "reward": float((treat * reward).mean()),
                "share_treated": float(treat.mean()),
                "seconds": round(time.perf_counter() - start, 2),
                **_told(model, drawn.strata_probability, scenario),
            }
        )
    return rows


def _told(model: LogEstimator, strata_probability: Any, scenario: str) -> dict[str, Any]:
    """Return what the automatic choice says of itself, beside the truth; nothing for a learner alone."""
    if not isinstance(model, AutoPolicy):
        numbers = dict.fromkeys(("value", "standard_error", "true_value"), np.nan)
        return {"chosen": "", "nobody": False, **numbers}
    truth = expected_reward(strata_probability, scenario, PAPER.cost)
    return {
        "chosen": model.chosen_,
        "nobody": bool(model.recommends_nobody_),
        "value": model.value_.value,
        "standard_error": model.value_.standard_error,
        "true_value": float((model.out_of_fold_policy_ * truth).mean()),
    }


def summary_of_choice(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise the rewards of the automatic choice, and of the learners alone, by world and size.

    Parameters
    ----------
    table : DataFrame
        Result of :func:`automatic_choice`.

    Returns
    -------
    DataFrame
        A row for each world and number of rows. ``best`` is the learner whose mean reward is largest, told by
        the truth; ``best_reward`` and ``reward`` are its mean reward and that of the choice, ``error`` the
        standard error of the latter. ``of_oracle`` and ``of_best`` are ratios of means; the latter is
        NaN where no learner earns anything. ``nobody`` is the
        share of logs with this advice. ``bias`` is the mean of the told value minus the truth, in its
        standard errors.
    """
    found = []
    for (world, n), part in table.groupby(["world", "rows"], sort=False):
        auto = part[part["policy"] == AUTOMATIC]
        alone = part[part["policy"] != AUTOMATIC].groupby("policy", sort=False)["reward"].mean()
        rewards = auto["reward"].to_numpy()
        off = (auto["value"] - auto["true_value"]).to_numpy()
        spread = float(np.sqrt(np.square(auto["standard_error"]).sum())) / len(auto)
        found.append(
            {
                "world": world,
                "rows": n,
                "logs": len(auto),
                "oracle": auto["oracle"].mean(),
                "best": alone.idxmax(),
                "best_reward": alone.max(),
                "reward": rewards.mean(),
                "error": mean_estimate(rewards).standard_error if len(rewards) > 1 else np.nan,
                "of_oracle": rewards.mean() / auto["oracle"].mean(),
                "of_best": rewards.mean() / alone.max() if alone.max() > 0 else np.nan,
                "nobody": auto["nobody"].mean(),
                "bias": off.mean() / spread if spread > 0 else 0.0,
            }
        )
    return pd.DataFrame(found)

"""Accuracy of each method on simulated campaigns: errors of strata probabilities, rewards of policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from cfmtl_lib.checks import check_count
from cfmtl_lib.datasets.simulation_campaign import CampaignStudy, simulated_campaign
from cfmtl_lib.estimators.baselines import OR, MomentEstimator, Naive
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_v1 import CFMTLv1
from cfmtl_lib.estimators.counterfactual import CFDR, CFOR
from cfmtl_lib.models.feature_networks import FeatureConfig
from cfmtl_lib.policy.allocation import allocate
from cfmtl_lib.policy.rewards import SCENARIOS, expected_reward
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.provenance import RunRecord, save_results
from cfmtl_lib.strata import STRATA

LOGISTIC = LogisticRegression(max_iter=1000)

CAMPAIGN_METHODS: dict[str, Callable[..., CFMTL | MomentEstimator]] = {
    "Naive, boosting": Naive,
    "OR, boosting": OR,
    "CF-OR, logistic": partial(CFOR, outcome=LOGISTIC),
    "CF-OR, boosting": CFOR,
    "CF-DR, boosting": CFDR,
    "CF-MTL": CFMTL,
    "CF-MTL, networks": partial(CFMTL, config=FeatureConfig()),
    "CF-MTL-v1": CFMTLv1,
}
"""Methods with the defaults of the library for features, except the logistic regressions and the networks."""

LATER_ROWS = 50_000
"""Rows of another draw of the population that models are judged on."""

LATER_SEEDS = 50_000
"""Seed of the first of these draws; no setting was chosen on any of them."""


def feature_accuracy(
    seeds: int,
    sizes: Sequence[int] = (2_000, 10_000, 50_000),
    *,
    methods: Sequence[str] = tuple(CAMPAIGN_METHODS),
    later_rows: int = LATER_ROWS,
    results_dir: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Fit methods to simulated campaigns and judge them by the truth, on other customers.

    These numbers choose nothing: configurations are the library's defaults. The settings of the boosted
    CF-MTL were chosen by the likelihood of other draws.

    Parameters
    ----------
    seeds : int
        Number of campaigns of each size: 0, 1, ...
    sizes : sequence of int
        Numbers of rows of the logs.
    methods : sequence of str
        Names from :data:`CAMPAIGN_METHODS`.
    later_rows : int
        Number of rows that models are judged on.
    results_dir : str or Path, optional
        Folder for ``simulated-campaign/accuracy.csv`` and its provenance. Nothing is written if left out.
    progress : bool
        Progress reports on stderr.

    Returns
    -------
    DataFrame
        One row for each size, seed and method. ``error`` is the mean absolute error of the five
        probabilities (NaN where no strata are identified), ``error_...`` that of each stratum. For each
        scenario, ``..._reward`` is the true expected reward of the policy (c = 0.4, at most 40 % treated).
        It is a share of the reward of the policy that knows the true probabilities.

    Raises
    ------
    InputError
        If there are no seeds.
    """
    seeds = check_count(seeds, "seeds")
    command = f"cfmtl_lib.experiments.evaluation.campaign_accuracy.feature_accuracy({seeds}, {tuple(sizes)})"
    folder = None if results_dir is None else Path(results_dir) / "simulated-campaign"
    record = RunRecord(command, range(seeds), folder)
    jobs = [(n, seed, name) for n in sizes for seed in range(seeds) for name in methods]
    rows = []
    for n, seed, name in track(jobs, total=len(jobs), label="Accuracy: fits", enabled=progress):
        later = simulated_campaign(later_rows, seed=LATER_SEEDS + seed)
        model = CAMPAIGN_METHODS[name](seed=seed).fit(simulated_campaign(n, seed=seed).log())
        rows.append({"rows": n, "seed": seed, "method": name, **accuracy_of(model, later)})
    table = pd.DataFrame(rows)
    if folder is not None:
        save_results(
            {"accuracy": table}, folder, record.finish("drawn by the command", later_rows=later_rows)
        )
    return table


def accuracy_of(model: CFMTL | MomentEstimator, later: CampaignStudy) -> dict[str, float]:
    """Compute errors and rewards of one model on rows whose strata probabilities are known."""
    truth, found = later.strata_probability, {}
    if hasattr(model, "predict_strata"):
        gaps = np.abs(model.predict_strata(later.table) - truth).mean(axis=0)
        found = {"error": float(gaps.mean())}
        found |= {
            f"error_{name.replace(' ', '_')}": float(gap) for name, gap in zip(STRATA, gaps, strict=True)
        }
    for scenario in SCENARIOS:
        reward = expected_reward(truth, scenario, PAPER.cost)
        chosen = allocate(model.predict_reward(later.table, scenario, PAPER.cost), PAPER.budget)
        best = allocate(reward, PAPER.budget)
        found[f"{scenario}_reward"] = float(reward[chosen].sum() / reward[best].sum())
    return found

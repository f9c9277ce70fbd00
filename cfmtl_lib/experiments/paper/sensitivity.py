"""Ranking of the methods over budgets and costs: curves from predictions, without new fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.datasets.study import Study
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.experiments.methods import METHODS, NET_METHODS
from cfmtl_lib.experiments.paper.tables import REFERENCE_POLICIES, ROWS_OF_TABLE4, reference_rewards
from cfmtl_lib.experiments.studies import (
    SettingOptions,
    StudyContext,
    StudySettings,
    TableRows,
    paper_policy,
    run_studies,
    settings_of,
)
from cfmtl_lib.policy.allocation import treatable
from cfmtl_lib.policy.rewards import SCENARIOS, stratum_rewards
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.strata import STRATA

BUDGETS = tuple(round(0.05 * step, 2) for step in range(1, 21))
COSTS = tuple(round(0.1 * step, 1) for step in range(11))

SURFACE_METHODS = ("CF-MTL-v1", "CF-MTL", "CF-IPS", "IPS", "IPS-net", "Naive", "Random", "Oracle")
"""Methods whose rewards are computed over budget *and* cost."""

_POINT = ["dataset", "labelling", "construction", "scenario", "curve", "value"]
_SURFACE_POINT = ["dataset", "labelling", "construction", "scenario", "method", "cost", "budget"]


def sensitivity(
    dataset: str | StudySettings = "simulated",
    *,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Compute rewards of the rows of Table 4 over budgets and over costs.

    Budgets vary at the published cost, costs at the published budget. Every predicted reward is affine in
    the cost. So two predictions per method give all of its curves.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    results_dir : str or Path, optional
        Folder for ``<dataset>/sensitivity.csv`` and its provenance. Nothing is written if left out.

    Returns
    -------
    DataFrame
        Columns ``dataset, labelling, construction, scenario``, ``curve`` ("budget" or "cost"), ``value`` and
        ``method``. Over seeds: ``mean`` and ``sd`` of the reward (sd NaN for one seed), ``seeds`` and
        ``best``. ``best`` is the share of seeds in which no other fitted method earns more.
        ``attrs["provenance"]`` holds the provenance.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    chosen = settings_of(dataset, settings)
    run = run_studies(
        _points,
        chosen,
        label="Sensitivity",
        results_dir=results_dir,
        command=chosen.papermill("07_table4"),
        tables={"sensitivity": [*_POINT, "method", "seed", "reward"]},
        protocol={"budgets": list(BUDGETS), "costs": list(COSTS)},
    )
    run.tables["sensitivity"] = over_seeds(run.tables["sensitivity"])
    run.save(results_dir)
    run.tables["sensitivity"].attrs["provenance"] = run.provenance
    return run.tables["sensitivity"]


def reward_surface(
    dataset: str | StudySettings = "simulated",
    *,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Compute rewards of :data:`SURFACE_METHODS` at every pair of a budget and a cost.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    results_dir : str or Path, optional
        Folder for ``<dataset>/reward_surface.csv`` and its provenance. Nothing is written if left out.

    Returns
    -------
    DataFrame
        Columns ``dataset, labelling, construction, scenario, method, cost, budget``. Over seeds: ``mean``
        and ``sd`` of the reward (conversions; sd NaN for one seed), ``seeds``. ``attrs["provenance"]`` holds
        the provenance.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    chosen = settings_of(dataset, settings)
    run = run_studies(
        _surface,
        chosen,
        label="Reward surface",
        results_dir=results_dir,
        command=chosen.papermill("07_table4"),
        tables={"reward_surface": [*_SURFACE_POINT, "seed", "reward"]},
        protocol={"budgets": list(BUDGETS), "costs": list(COSTS)},
    )
    rewards = run.tables["reward_surface"].groupby(_SURFACE_POINT, sort=False)["reward"]
    surface = rewards.agg(["mean", "std", "count"]).round(1)
    surface = surface.rename(columns={"std": "sd", "count": "seeds"}).reset_index()
    run.tables["reward_surface"] = surface
    run.save(results_dir)
    surface.attrs["provenance"] = run.provenance
    return surface


def over_seeds(points: pd.DataFrame) -> pd.DataFrame:
    """Summarise rewards at each point of each curve, with the share of seeds in which a method is best."""
    fitted = ~points["method"].isin(REFERENCE_POLICIES)
    best = points[fitted].groupby([*_POINT, "seed"])["reward"].transform("max")
    points = points.assign(best=points["reward"].eq(best).astype(float).where(fitted))
    summary = points.groupby([*_POINT, "method"], sort=False).agg(
        mean=("reward", "mean"), sd=("reward", "std"), seeds=("reward", "count"), best=("best", "mean")
    )
    return summary.round({"mean": 2, "sd": 2}).reset_index()


def rewards_by_budget(
    predicted: NDArray[np.float64], study: Study, scenario: str, cost: float = PAPER.cost
) -> NDArray[np.float64]:
    """Compute the reward at each of :data:`BUDGETS` of ranking test pairs by a prediction; shape (20,)."""
    order = np.argsort(-predicted, kind="stable")
    earned = np.concatenate([[0.0], np.cumsum(stratum_rewards(scenario, cost)[study.test.stratum[order]])])
    n_wanted = int((predicted > 0).sum())
    return earned[[min(treatable(len(predicted), budget), n_wanted) for budget in BUDGETS]]


def rewards_by_cost(
    at_zero: NDArray[np.float64],
    at_one: NDArray[np.float64],
    study: Study,
    scenario: str,
) -> NDArray[np.float64]:
    """Compute the reward at each of :data:`COSTS` from predictions at cost 0 and cost 1; shape (11,)."""
    rewards = []
    for cost in COSTS:
        treat = paper_policy(at_zero + cost * (at_one - at_zero))
        counts = np.bincount(study.test.stratum[treat], minlength=len(STRATA))
        rewards.append(float(counts @ stratum_rewards(scenario, cost)))
    return np.array(rewards)


def _points(context: StudyContext) -> TableRows:
    study = context.study
    models = context.fitted([*METHODS, *NET_METHODS])
    rows: list[dict[str, Any]] = []
    for name in ROWS_OF_TABLE4:
        for scenario in SCENARIOS:
            at_zero, at_one = _at_zero_and_one(name, models, study, scenario)
            published = at_zero + PAPER.cost * (at_one - at_zero)
            for curve, values, rewards in (
                ("budget", BUDGETS, rewards_by_budget(published, study, scenario)),
                ("cost", COSTS, rewards_by_cost(at_zero, at_one, study, scenario)),
            ):
                rows += [
                    context.key
                    | {"scenario": scenario, "curve": curve, "value": value}
                    | {"method": name, "seed": study.seed, "reward": round(float(reward), 6)}
                    for value, reward in zip(values, rewards, strict=True)
                ]
    return {"sensitivity": rows}


def _surface(context: StudyContext) -> TableRows:
    study = context.study
    models = context.fitted([name for name in SURFACE_METHODS if name not in REFERENCE_POLICIES])
    rows: list[dict[str, Any]] = []
    for scenario in SCENARIOS:
        for name in SURFACE_METHODS:
            at_zero, at_one = _at_zero_and_one(name, models, study, scenario)
            for cost in COSTS:
                rewards = rewards_by_budget(at_zero + cost * (at_one - at_zero), study, scenario, cost)
                rows += [
                    context.key
                    | {"scenario": scenario, "method": name, "cost": cost, "budget": budget}
                    | {"seed": study.seed, "reward": float(reward)}
                    for budget, reward in zip(BUDGETS, rewards, strict=True)
                ]
    return {"reward_surface": rows}


def _at_zero_and_one(
    name: str, models: Mapping[str, LogEstimator], study: Study, scenario: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predict rewards of the test pairs at costs 0 and 1; rewards are linear in between."""
    at_zero, at_one = (
        models[name].predict_reward(study.test.x, scenario, cost)
        if name in models
        else reference_rewards(name, study, scenario, cost)
        for cost in (0.0, 1.0)
    )
    return at_zero, at_one

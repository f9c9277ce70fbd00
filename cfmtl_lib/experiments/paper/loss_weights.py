"""Loss weights of CF-MTL, chosen by the likelihood of held-out cells, which a real log shows.

The paper does not say how the published weights were found. Perhaps they were chosen on test strata, which
no log has. Then comparisons on the same data favour CF-MTL, and on other data may disadvantage it. Here each
candidate is fitted to four fifths of a training log and judged on the rest of that log.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.datasets.study import Study
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_v1 import CFMTLv1
from cfmtl_lib.estimators.likelihood import observed_cell_probability
from cfmtl_lib.experiments.methods import fit_joint, fit_two_stage
from cfmtl_lib.experiments.paper.tables import COUNTS, KEY, checked_counts
from cfmtl_lib.experiments.studies import (
    SettingOptions,
    StudyContext,
    StudySettings,
    TableRows,
    paper_policy,
    run_studies,
    settings_of,
)
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.models.losses import CellWeights
from cfmtl_lib.policy.rewards import SCENARIOS
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.fit_cache import FitCache
from cfmtl_lib.strata import CELLS

HELD_OUT_SHARE = 0.2

SMALLEST_PROBABILITY = 1e-6
"""Least probability of a cell in the held-out likelihood: one certain error must not decide alone."""


FIXED_CANDIDATES = {
    "CF-MTL": PAPER.joint_weights,
    "CF-MTL-v1": PAPER.two_stage_weights,
    "equal": CellWeights(1, 1, 1, 1, 1, 1),
    "untreated": CellWeights(1, 1, 1, 1, 5, 5),
    "treated": CellWeights(5, 5, 5, 5, 1, 1),
}

WEIGHT_COLUMNS = [f"t{t}c{c}y{y}" for t, c, y in CELLS]
CHOICE_COLUMNS = ["method", "weights", *WEIGHT_COLUMNS, "held_out", "held_out_given_arm", "chosen"]


def candidates(log: IncentiveLog) -> dict[str, CellWeights]:
    """List the loss weights to choose from, by name.

    "CF-MTL" and "CF-MTL-v1" are the published ones. "equal" weighs all cells alike. "rare cells" weighs a
    cell by the inverse of its share in the log. "untreated" and "treated" weigh one arm five times.
    """
    share = np.bincount(log.cell, minlength=len(CELLS)) / len(log)
    rarity = 1 / np.maximum(share, 1e-3)
    return FIXED_CANDIDATES | {"rare cells": CellWeights(*(rarity / rarity.mean()).round(3).tolist())}


def held_out_log_likelihood(model: CFMTL, log: IncentiveLog) -> tuple[float, float]:
    """Compute the mean log-likelihood per row of the observed cells, and of the cells given the arm.

    The first, log P(T, C, Y | x), uses the fitted propensity without its lower bound. Logarithms are natural.
    Probabilities below 1e-6 count as 1e-6.

    Parameters
    ----------
    model : CFMTL
        Fitted model.
    log : IncentiveLog
        Rows that the model was not fitted to.

    Returns
    -------
    joint, given_arm : float
        Mean log-likelihood per row of the cells, and of the cells given the arm.
    """
    given_arm = observed_cell_probability(model.predict_strata(log.x), log)
    g = model.predict_propensity(log.x)
    arm = np.where(log.t == 1, g, 1 - g)
    return (
        float(np.log(np.maximum(given_arm * arm, SMALLEST_PROBABILITY)).mean()),
        float(np.log(np.maximum(given_arm, SMALLEST_PROBABILITY)).mean()),
    )


def split_log(log: IncentiveLog, seed: int) -> tuple[IncentiveLog, IncentiveLog]:
    """Split a log at random into four fifths to fit and one fifth to judge by.

    Raises
    ------
    InputError
        If the log has fewer than ten rows.
    LogError
        If an arm is empty in a part.
    """
    if len(log) < 10:
        raise InputError("log", expected="at least ten rows", found=str(len(log)))
    order = np.random.default_rng([seed, 3]).permutation(len(log))
    n_held_out = int(HELD_OUT_SHARE * len(log))
    return _rows(log, order[n_held_out:]), _rows(log, order[:n_held_out])


def choose(study: Study, *, device: str, cache: FitCache) -> list[dict[str, Any]]:
    """Fit every candidate of both forms of CF-MTL to one part of the log and judge it on the other.

    Returns
    -------
    list of dict
        Keys ``method``, ``weights`` (the candidate's name), the six weights, and ``held_out`` and
        ``held_out_given_arm`` (log-likelihoods per row). ``chosen`` says whether ``held_out`` is the largest
        of the method.
    """
    fitted_to, judged_on = split_log(study.train, study.seed)
    part = replace(study, train=fitted_to)
    rows = []
    for method, kind in (("CF-MTL", CFMTL), ("CF-MTL-v1", CFMTLv1)):
        named = candidates(fitted_to)
        models = {
            name: kind(weights=weights, device=device, seed=study.seed) for name, weights in named.items()
        }
        _fit(models, part, cache)
        found = {name: held_out_log_likelihood(model, judged_on) for name, model in models.items()}
        best = max(found, key=lambda name: found[name][0])
        rows += [
            {"method": method, "weights": name}
            | dict(zip(WEIGHT_COLUMNS, named[name].in_cell_order(), strict=True))
            | {"held_out": round(joint, 6), "held_out_given_arm": round(given_arm, 6)}
            | {"chosen": name == best}
            for name, (joint, given_arm) in found.items()
        ]
    return rows


def chosen_weights(
    dataset: str | StudySettings = "simulated",
    *,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Fit CF-MTL and CF-MTL-v1 with loss weights chosen on held-out cells.

    The choice is made on the log of seed 0 of each labelling and construction, and holds for all seeds. A
    choice for each seed would need many more fits, and the logs differ by chance only.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    results_dir : str or Path, optional
        Folder for ``<dataset>/loss_weights.csv`` (the candidates and their likelihoods),
        ``<dataset>/loss_weights_rewards.csv`` and the provenance of each. Nothing is written if left out.

    Returns
    -------
    DataFrame
        Columns of Table 4 and ``weights``, the name of the chosen candidate.
        ``attrs["choice"]`` holds the candidates, ``attrs["provenance"]`` the provenance.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    chosen = settings_of(dataset, settings, labelling="text")
    choice = run_studies(
        lambda context: {
            "loss_weights": [
                context.key | {"seed": context.study.seed} | row
                for row in choose(context.study, device=context.device, cache=context.cache)
            ]
        },
        replace(chosen, seeds=1),
        label="Loss weights",
        results_dir=results_dir,
        command=chosen.call("cfmtl_lib.experiments.paper.loss_weights.chosen_weights"),
        tables={"loss_weights": [*KEY[:3], "seed", *CHOICE_COLUMNS]},
    )
    table = choice.tables["loss_weights"]
    best = {(row.labelling, row.construction, row.method): row for row in table[table["chosen"]].itertuples()}

    def work(context: StudyContext) -> TableRows:
        study, rows = context.study, []
        for method, kind in (("CF-MTL", CFMTL), ("CF-MTL-v1", CFMTLv1)):
            row = best[study.labelling, study.construction, method]
            weights = CellWeights(*(getattr(row, column) for column in WEIGHT_COLUMNS))
            # The object itself, whose fit other tables may share.
            weights = FIXED_CANDIDATES.get(str(row.weights), weights)
            model = kind(weights=weights, device=context.device, seed=study.seed)
            _fit({"": model}, study, context.cache)
            for scenario in SCENARIOS:
                treat = paper_policy(model.predict_reward(study.test.x, scenario, PAPER.cost))
                key = {"scenario": scenario, "method": method, "weights": row.weights, "seed": study.seed}
                rows.append(context.key | key | checked_counts(treat, study, scenario))
        return {"loss_weights_rewards": rows}

    run = run_studies(
        work,
        chosen,
        label="Chosen loss weights",
        results_dir=results_dir,
        command=chosen.call("cfmtl_lib.experiments.paper.loss_weights.chosen_weights"),
        tables={"loss_weights_rewards": [*KEY[:-1], "weights", "seed", *COUNTS]},
    )
    choice.save(results_dir, run)
    rewards = run.tables["loss_weights_rewards"]
    rewards.attrs.update(provenance=run.provenance, choice=table)
    return rewards


def _fit(models: dict[str, Any], study: Study, cache: FitCache) -> None:
    two_stage = [model for model in models.values() if isinstance(model, CFMTLv1)]
    fit_two_stage(two_stage, study, cache)
    for model in models.values():
        if model not in two_stage:
            fit_joint(model, study, cache)


def _rows(log: IncentiveLog, index: NDArray) -> IncentiveLog:
    return IncentiveLog(
        log.x[index],
        log.t[index],
        log.c[index],
        log.y[index],
        n_users=log.n_users,
        n_items=log.n_items,
    )

"""Rank, priors and number of starts of latent strata, judged by held-out rows, and the rewards beside them.

The choice is made on a training log alone. Rewards count true strata of the test pairs. They are printed to
judge the choice, and show what it cannot do. Within one assumption, likelihood and reward go together.
Between assumptions they need not; see :mod:`cfmtl_lib.estimators.latent_strata`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd

from cfmtl_lib.datasets.study import Study
from cfmtl_lib.estimators.latent_strata import (
    LATENT_CANDIDATES,
    as_candidates,
    fit_starts,
    latent_log_likelihood,
    split_rows,
)
from cfmtl_lib.experiments.paper.tables import KEY, checked_counts
from cfmtl_lib.experiments.studies import (
    SettingOptions,
    StudyContext,
    StudySettings,
    TableRows,
    paper_policy,
    run_studies,
    settings_of,
)
from cfmtl_lib.models.latent_networks import ASSIGNMENTS, LatentConfig
from cfmtl_lib.policy.rewards import SCENARIOS, expected_reward
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device

MOST_STARTS = 8
"""Number of starts averaged at most, the default of ``LatentStrata``."""

SETTINGS = ("rank", "factor_precision", "epochs")
COLUMNS = [
    *KEY[:3],
    "seed",
    "assignment",
    *SETTINGS,
    "starts",
    "held_out",
    "chosen",
    *SCENARIOS,
]


def latent_choice(
    dataset: str | StudySettings = "simulated",
    *,
    candidates: Sequence[LatentConfig] = LATENT_CANDIDATES,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Compare settings of latent strata by held-out rows of the log, under both assumptions.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    candidates : sequence of LatentConfig
        Settings to compare.
    results_dir : str or Path, optional
        Folder for ``<dataset>/latent_choice.csv`` and its provenance. Nothing is written if left out.

    Returns
    -------
    DataFrame
        One row for each setting and number of starts. ``held_out`` is the mean log-likelihood of the rows
        held out, in nats. ``chosen`` marks the largest of an assumption. The two scenarios' columns are
        rewards on the test pairs, of fits without the rows held out. ``attrs["provenance"]`` holds the
        provenance.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    tried = as_candidates(candidates, "candidates")
    chosen = settings_of(dataset, settings)
    run = run_studies(
        partial(_rows, tried),
        chosen,
        label="Latent strata",
        results_dir=results_dir,
        command=chosen.call("cfmtl_lib.experiments.paper.latent_choice.latent_choice"),
        tables={"latent_choice": COLUMNS},
    )
    run.save(results_dir)
    run.tables["latent_choice"].attrs["provenance"] = run.provenance
    return run.tables["latent_choice"]


def _rows(candidates: Sequence[LatentConfig], context: StudyContext) -> TableRows:
    study, rows = context.study, []
    for assignment in ASSIGNMENTS:
        of_assignment = [
            context.key | {"seed": study.seed, "assignment": assignment, **_settings(config)} | numbers
            for config in candidates
            for numbers in context.cache(
                partial(_numbers, config, assignment, context),
                fit="latent choice",
                config=config,
                assignment=assignment,
                starts=MOST_STARTS,
                seed=study.seed,
                device=resolve_device(context.device).type,
                data=context.content,
            )
        ]
        best = max(row["held_out"] for row in of_assignment)
        rows += [row | {"chosen": row["held_out"] == best} for row in of_assignment]
    return {"latent_choice": rows}


def _settings(config: LatentConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name in SETTINGS}


def _numbers(config: LatentConfig, assignment: str, context: StudyContext) -> list[dict[str, Any]]:
    """Fit all starts without the rows held out, and judge means of 1, 2, 4, ... of them."""
    study = context.study
    kept, aside = split_rows(study.train, seed=study.seed)
    fitted = fit_starts(
        kept,
        config,
        assignment,
        starts=MOST_STARTS,
        device=context.device,
        seed=study.seed,
        n_jobs=context.n_jobs,
        progress=False,
    )
    networks = [network for network, _ in fitted]
    strata = [network.predict("strata", study.test.x) for network in networks]
    numbers = []
    starts = 1
    while starts <= len(networks):
        held_out = latent_log_likelihood(networks[:starts], aside).mean()
        rewards = _rewards(np.mean(strata[:starts], axis=0), study)
        numbers.append({"starts": starts, "held_out": round(float(held_out), 6), **rewards})
        starts *= 2
    return numbers


def _rewards(p: np.ndarray, study: Study) -> dict[str, float]:
    return {
        scenario: checked_counts(paper_policy(expected_reward(p, scenario, PAPER.cost)), study, scenario)[
            "reward"
        ]
        for scenario in SCENARIOS
    }

"""CF-MTL-v1 from several initialisations on one study, with and without the untreated terms."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Unpack

import pandas as pd

from cfmtl_lib.checks import check_count
from cfmtl_lib.experiments.methods import ABLATIONS, fit_methods
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
from cfmtl_lib.policy.rewards import SCENARIOS
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.threads import run_parallel


def initialisations(
    dataset: str | StudySettings = "simulated",
    *,
    count: int = 5,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Fit CF-MTL-v1 with and without the untreated terms on one study, from several initialisations.

    Over the seeds of :func:`~cfmtl_lib.experiments.paper.tables.table5_6` data and initial values change
    together. Here the study of seed 0 stays the same. Only initial values and the order of batches change.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    count : int
        Number of initialisations: estimators with seeds 0, 1, ...
    results_dir : str or Path, optional
        Folder for ``<dataset>/table5_6_initialisations.csv`` and its provenance. Nothing is written if left
        out.

    Returns
    -------
    DataFrame
        Columns of :func:`~cfmtl_lib.experiments.paper.tables.table5_6`, and ``initialisation``.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    names = ["CF-MTL-v1 w/o L_001 L_000", "CF-MTL-v1"]
    check_count(count, "count")

    def work(context: StudyContext) -> TableRows:
        fits = [
            partial(fit_methods, context.study, names, device=context.device, seed=k, cache=context.cache)
            for k in range(count)
        ]
        rows = []
        for k, models in enumerate(run_parallel(fits, context.n_jobs)):
            for name in names:
                for scenario in SCENARIOS:
                    reward = models[name].predict_reward(context.study.test.x, scenario, PAPER.cost)
                    key = {"scenario": scenario, **ABLATIONS[name]._asdict()}
                    key |= {"seed": context.study.seed, "initialisation": k}
                    treat = paper_policy(reward)
                    rows.append(context.key | key | checked_counts(treat, context.study, scenario))
        return {"table5_6_initialisations": rows}

    chosen = settings_of(dataset, settings, construction="document", seeds=1)
    run = run_studies(
        work,
        chosen,
        label="Initialisations",
        results_dir=results_dir,
        command=chosen.call("cfmtl_lib.experiments.paper.initialisations.initialisations", count=count),
        tables={
            "table5_6_initialisations": [
                *KEY[:-1],
                "keeps_001",
                "keeps_000",
                "seed",
                "initialisation",
                *COUNTS,
            ]
        },
        protocol={"initialisations": count},
    )
    run.save(results_dir)
    table = run.tables["table5_6_initialisations"]
    table.attrs["provenance"] = run.provenance
    return table

"""CF-MTL-v1 from several initialisations on one study: what the row without untreated terms depends on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from cfmtl_lib.experiments.methods import ABLATIONS, fit_methods
from cfmtl_lib.experiments.paper.tables import COUNTS, KEY, checked_counts
from cfmtl_lib.experiments.studies import OpenStudy, Rows, Where, positive, run_studies
from cfmtl_lib.policy.allocation import allocate
from cfmtl_lib.policy.rewards import SCENARIOS
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.threads import side_by_side


def initialisations(
    dataset: str = "simulated",
    *,
    data_dir: str | Path | None = None,
    labelling: str = "code",
    construction: str = "document",
    count: int = 5,
    device: str = "auto",
    results_dir: str | Path | None = None,
    fits_dir: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """CF-MTL-v1 with and without the untreated terms on one study, from several initialisations.

    Over the seeds of :func:`~cfmtl_lib.experiments.paper.tables.table5_6` data and initial values change
    together. Here the
    study of seed 0 stays, and only initial values and the order of batches change.

    Parameters
    ----------
    dataset, data_dir, labelling, construction, device, fits_dir, n_jobs, progress
        As in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    count : int
        Initialisations: estimators with seeds 0, 1, ...
    results_dir : str or Path, optional
        Write ``<results_dir>/<dataset>/table5_6_initialisations.csv`` and its provenance.

    Returns
    -------
    DataFrame
        As from :func:`~cfmtl_lib.experiments.paper.tables.table5_6`, with a column initialisation.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        As in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    names = ["CF-MTL-v1 w/o L_001 L_000", "CF-MTL-v1"]
    positive("count", count)

    def work(opened: OpenStudy) -> Rows:
        fits = [
            partial(fit_methods, opened.study, names, device=device, seed=k, cache=opened.cache)
            for k in range(count)
        ]
        rows = []
        for k, models in enumerate(side_by_side(fits, opened.n_jobs)):
            for name in names:
                for scenario in SCENARIOS:
                    reward = models[name].predict_reward(opened.study.test.x, scenario, PAPER.cost)
                    key = {"scenario": scenario, **ABLATIONS[name]._asdict()}
                    key |= {"seed": opened.study.seed, "initialisation": k}
                    treat = allocate(reward, PAPER.budget)
                    rows.append(opened.key | key | checked_counts(treat, opened.study, scenario))
        return {"table5_6_initialisations": rows}

    where = Where(dataset, data_dir, labelling, construction, 1, device, n_jobs, fits_dir, progress)
    run = run_studies(
        work,
        where,
        label="Initialisations",
        command=where.call("cfmtl_lib.experiments.paper.initialisations.initialisations", count=count),
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

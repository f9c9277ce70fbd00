r"""What the loss of CF-MTL can see, and what it cannot once the terms of the untreated cells are gone.

The four treated cells hold coupon buyers and always buyers as their sum only. So the loss of these cells
is the same for all strata probabilities that differ by a multiple of :math:`(0, 0, 0, 1, -1)`: along that
direction the likelihood is flat, and where a fit ends there depends on its start, weight decay and path.
Either cell of the untreated arm ends that: (0, 0, 1) holds always buyers without coupon buyers, (0, 0, 0) the
reverse.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import null_space

from cfmtl_lib.cells import INSIDE_LOG
from cfmtl_lib.errors import InputError
from cfmtl_lib.methods import ABLATIONS, fit_methods
from cfmtl_lib.policy import allocate
from cfmtl_lib.protocol import PAPER, CellWeights
from cfmtl_lib.runs import OpenStudy, Rows, Where, positive, run_studies
from cfmtl_lib.strata import ALWAYS_BUYER, CELL_MEMBERSHIP, CELLS, COUPON_BUYER, SCENARIOS
from cfmtl_lib.tables import COUNTS, KEY, checked_counts
from cfmtl_lib.threads import side_by_side


def unseen_directions(weights: CellWeights) -> NDArray[np.float64]:
    """Directions of strata probabilities that cells with a positive weight do not depend on.

    Parameters
    ----------
    weights : CellWeights

    Returns
    -------
    ndarray of shape (5, m), float64
        An orthonormal basis; m = 0 if the strata are identified from these cells.

    Examples
    --------
    >>> from dataclasses import replace
    >>> unseen_directions(PAPER.two_stage_weights).shape
    (5, 0)
    >>> without_both = replace(PAPER.two_stage_weights, t0c0y1=0, t0c0y0=0)
    >>> np.abs(unseen_directions(without_both)[:, 0]).round(3).tolist()
    [0.0, 0.0, 0.0, 0.707, 0.707]
    """
    seen = np.array(weights.in_cell_order()) > 0
    # Probabilities sum to one: no direction may change their sum.
    return null_space(np.vstack([CELL_MEMBERSHIP[seen], np.ones(CELL_MEMBERSHIP.shape[1])]))


def move_between_buyers(strata_probability: ArrayLike, share: float) -> NDArray[np.float64]:
    """Strata probabilities after a share of one kind of buyers is moved to the other.

    Parameters
    ----------
    strata_probability : array_like of shape (n, 5), float
    share : float in [-1, 1]
        Above 0, this share of the always buyers become coupon buyers; below 0, the reverse.

    Returns
    -------
    ndarray of shape (n, 5), float64

    Raises
    ------
    InputError
        If the share lies outside [-1, 1].

    Examples
    --------
    >>> move_between_buyers([[0.1, 0.1, 0.2, 0.4, 0.2]], share=0.5).round(6).tolist()
    [[0.1, 0.1, 0.2, 0.5, 0.1]]
    """
    if not -1 <= share <= 1:
        raise InputError("share", expected="a number in [-1, 1]", found=repr(share))
    p = np.array(strata_probability, dtype=np.float64)
    moved = share * (p[:, ALWAYS_BUYER] if share > 0 else p[:, COUPON_BUYER])
    p[:, COUPON_BUYER] += moved
    p[:, ALWAYS_BUYER] -= moved
    return p


def expected_cell_losses(assumed: ArrayLike, truth: ArrayLike, propensity: ArrayLike) -> NDArray[np.float64]:
    """Expected cross-entropy a row of each cell, unweighted, if ``truth`` holds and ``assumed`` is predicted.

    Parameters
    ----------
    assumed, truth : array_like of shape (n, 5), float
        Strata probabilities.
    propensity : array_like of shape (n,), float
        True, and predicted.

    Returns
    -------
    ndarray of shape (6,), float64
        In the order of :data:`~cfmtl_lib.strata.CELLS`; natural logarithm.
    """
    treated = np.array([t for t, _, _ in CELLS], dtype=bool)
    arm = np.where(treated[:, None], np.asarray(propensity), 1 - np.asarray(propensity))
    q, happens = (arm * (CELL_MEMBERSHIP @ np.asarray(p, dtype=np.float64).T) for p in (assumed, truth))
    q = np.clip(q + INSIDE_LOG, None, 1 - INSIDE_LOG)
    return -(happens * np.log(q) + (1 - happens) * np.log(1 - q)).mean(axis=1)


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

    Over the seeds of :func:`~cfmtl_lib.tables.table5_6` data and initial values change together. Here the
    study of seed 0 stays, and only initial values and the order of batches change.

    Parameters
    ----------
    dataset, data_dir, labelling, construction, device, fits_dir, n_jobs, progress
        As in :func:`~cfmtl_lib.tables.table4`.
    count : int
        Initialisations: estimators with seeds 0, 1, ...
    results_dir : str or Path, optional
        Write ``<results_dir>/<dataset>/table5_6_initialisations.csv`` and its provenance.

    Returns
    -------
    DataFrame
        As from :func:`~cfmtl_lib.tables.table5_6`, with a column initialisation.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        As in :func:`~cfmtl_lib.tables.table4`.
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
        command=where.call("cfmtl_lib.identification.initialisations", count=count),
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

"""The published tables as data: which methods, which settings, which seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.cfmtl import CFMTL, CFMTLv1
from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.datasets.loading import OBSERVED_AT_RANDOM, load_study, ratings_of
from cfmtl_lib.datasets.ratings import Ratings
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.devices import resolve_device
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.estimators import CFDR, CFIPS, CFOR, DR, IPS, OR, MomentEstimator, Naive
from cfmtl_lib.nuisances import PairNuisances
from cfmtl_lib.policy import allocate, count_outcomes, expected_reward, treatable
from cfmtl_lib.progress import track
from cfmtl_lib.protocol import CONSTRUCTIONS, LABELLINGS, PAPER
from cfmtl_lib.results import RunRecord, save_results
from cfmtl_lib.strata import SCENARIOS, STRATA
from cfmtl_lib.threads import one_torch_thread, side_by_side

METHODS: dict[str, Callable[..., MomentEstimator | CFMTL]] = {
    "Naive": Naive,
    "OR": OR,
    "CF-OR": partial(CFOR, cell_form="product"),
    "IPS": IPS,
    "CF-IPS": partial(CFIPS, cell_form="product"),
    "DR": DR,
    "CF-DR": partial(CFDR, cell_form="product"),
    "CF-MTL": CFMTL,
    "CF-MTL-v1": CFMTLv1,
}
"""The nine methods of Table 4, in its order. CF estimators take the authors' product form of the cells."""

KEY = ["dataset", "labelling", "construction", "scenario", "method", "seed"]
COUNTS = ["positive", "negative", "neutral", "reward"]


class Task(NamedTuple):
    """One study: one labelling, one construction, one seed."""

    labelling: str
    construction: str
    seed: int


class TaskRows(NamedTuple):
    """What one study contributes: counts, treated pairs by stratum, the fingerprint of its data."""

    counts: list[dict[str, Any]]
    treated: list[dict[str, Any]]
    fingerprint: str


def table4(
    dataset: str = "simulated",
    *,
    data_dir: str | Path | None = None,
    labelling: str = "code",
    construction: str = "both",
    seeds: int = 5,
    methods: Sequence[str] | None = None,
    device: str = "auto",
    results_dir: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Table 4: whom each method treats under the budget, and what that earns on test pairs of known strata.

    Both scenarios come from one set of fits; the moments that methods have in common are fitted once.
    Cost and budget are the published 0.4 and 0.4.

    Parameters
    ----------
    dataset : str
        "simulated", a name of the catalog, or a path to a ratings table.
    data_dir : str or Path, optional
        Where the dataset's file lies; see :func:`~cfmtl_lib.datasets.ratings.load_ratings`.
    labelling : {"code", "text", "both"}
    construction : {"authors", "document", "both"}
    seeds : int
        Number of seeds: 0, 1, ... Each seed is a new construction and new fits.
    methods : sequence of str, optional
        Names from :data:`METHODS`; all if left out.
    device : str
    results_dir : str or Path, optional
        Write ``<results_dir>/<dataset>/table4.csv``, ``table4_treated.csv`` (treated pairs by stratum) and
        the provenance of each. Nothing is written before all rows are there and checked.
    n_jobs : int, optional
        Fits side by side, each on one thread: of different studies, or of one if there is only one. As
        many as there are cores on a CPU, one at a time on an accelerator. Rows do not depend on it.
    progress : bool
        Say on stderr how far it is.

    Returns
    -------
    DataFrame
        Long form: dataset, labelling, construction, scenario, method, seed, positive, negative, neutral,
        reward. ``attrs["provenance"]`` says where it comes from.

    Raises
    ------
    UnknownNameError, InputError
        If a name is unknown or a count is not positive.
    RatingsError, StudyError
        If the data cannot be read, or no study can be made from them.
    """
    names = [check_choice("method", m, METHODS) for m in (METHODS if methods is None else methods)]
    if not names:
        raise InputError("methods", expected="at least one name", found="none")
    tasks = [
        Task(rule, fits, seed)
        for rule in _one_or_both("labelling", labelling, LABELLINGS)
        for fits in _one_or_both("construction", construction, CONSTRUCTIONS)
        for seed in range(_positive("seeds", seeds))
    ]
    record = RunRecord(
        command=_command(dataset, data_dir, labelling, construction, seeds, methods), seeds=range(seeds)
    )
    kind = resolve_device(device).type
    if n_jobs is None:
        n_jobs = (os.cpu_count() or 1) if kind == "cpu" else 1
    inside = max(1, _positive("n_jobs", n_jobs) // len(tasks))
    # Read once for all studies, where they share one table.
    shared = dataset not in ("simulated", *OBSERVED_AT_RANDOM)
    source = ratings_of(dataset, data_dir) if shared else dataset
    # Threads, which also share the ratings; joblib's parallel_config can send the studies elsewhere.
    run = joblib.Parallel(n_jobs=min(n_jobs, len(tasks)), prefer="threads", return_as="generator")(
        joblib.delayed(_table4_task)(task, names, source, data_dir, device, inside) for task in tasks
    )
    parts = list(track(run, total=len(tasks), label=f"Table 4 on {dataset}: studies", enabled=progress))

    table = pd.DataFrame([row for part in parts for row in part.counts], columns=KEY + COUNTS)
    treated = pd.DataFrame([row for part in parts for row in part.treated], columns=[*KEY, *STRATA])
    fingerprints = {
        f"{task.labelling} {task.construction} {task.seed}": part.fingerprint
        for task, part in zip(tasks, parts, strict=True)
    }
    provenance = record.finish(
        data_fingerprint=(parts[0].fingerprint if len(set(fingerprints.values())) == 1 else fingerprints),
        protocol={"cost": PAPER.cost, "budget": PAPER.budget, "cell_form": "product"},
        device=kind,
    )
    if results_dir is not None:
        folder = Path(results_dir) / str(table["dataset"].iloc[0])
        save_results({"table4": table, "table4_treated": treated}, folder, provenance)
    table.attrs["provenance"] = provenance
    return table


def study_rewards(
    study: Study, methods: Sequence[str], *, device: str, seed: int, n_jobs: int = 1
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Fit methods on a study and predict the reward of each test pair.

    Parameters
    ----------
    study : Study
    methods : sequence of str
        Names from :data:`METHODS`.
    device : str
    seed : int
    n_jobs : int
        Fits side by side, each on one thread. Predictions do not depend on it.

    Returns
    -------
    dict of (method, scenario) to ndarray of shape (n_test,), float64
    """
    nuisances = PairNuisances(
        study.train,
        config=PAPER.nuisance,
        propensity_clip=PAPER.propensity_clip,
        device=device,
        seed=seed,
    )

    def rewards(names: Sequence[str]) -> dict[tuple[str, str], NDArray[np.float64]]:
        found = {}
        for name in names:
            estimator = METHODS[name](device=device, seed=seed)
            if isinstance(estimator, MomentEstimator):
                estimator.fit(study.train, nuisances)
            else:
                estimator.fit(study.train)
            for scenario in SCENARIOS:
                found[name, scenario] = estimator.predict_reward(study.test.x, scenario, PAPER.cost)
        return found

    # CF-MTL and CF-MTL-v1 take longest and share nothing; the other methods share their moments.
    alone = [name for name in reversed(methods) if name in ("CF-MTL", "CF-MTL-v1")]
    groups = [[name] for name in alone] + [[name for name in methods if name not in alone]]
    parts = side_by_side([partial(rewards, group) for group in groups], n_jobs)
    found = {key: reward for part in parts for key, reward in part.items()}
    return {(name, scenario): found[name, scenario] for name in methods for scenario in SCENARIOS}


def true_probability_rewards(study: Study) -> pd.DataFrame:
    """What a policy earns that knows the strata probabilities of a simulation: the ceiling for any method.

    Returns
    -------
    DataFrame
        One row a scenario: scenario, positive, negative, neutral, reward.

    Raises
    ------
    InputError
        If the study does not know its strata probabilities.
    """
    p = study.test.strata_probability
    if p is None:
        raise InputError("study", expected="known strata probabilities", found=repr(study))
    rows = []
    for scenario in SCENARIOS:
        treat = allocate(expected_reward(p, scenario, PAPER.cost), PAPER.budget)
        counts = count_outcomes(treat, study.test.stratum, scenario, PAPER.cost)
        rows.append({"scenario": scenario, **counts._asdict()})
    return pd.DataFrame(rows)


def _table4_task(
    task: Task,
    methods: Sequence[str],
    source: str | Ratings,
    data_dir: str | Path | None,
    device: str,
    n_jobs: int,
) -> TaskRows:
    with one_torch_thread():
        study = load_study(source, data_dir, *task, device=device, n_jobs=n_jobs)
        counts, treated = [], []
        found = study_rewards(study, methods, device=device, seed=task.seed, n_jobs=n_jobs)
        for (method, scenario), reward in found.items():
            treat = allocate(reward, PAPER.budget)
            key = dict(
                zip(
                    KEY,
                    (study.dataset, study.labelling, study.construction, scenario, method, task.seed),
                    strict=True,
                )
            )
            row = key | count_outcomes(treat, study.test.stratum, scenario, PAPER.cost)._asdict()
            _check_row(row, len(study.test))
            counts.append(row)
            by_stratum = np.bincount(study.test.stratum[treat], minlength=len(STRATA))
            treated.append(key | dict(zip(STRATA, by_stratum.tolist(), strict=True)))
    return TaskRows(counts, treated, study.fingerprint)


def _command(
    dataset: str,
    data_dir: str | Path | None,
    labelling: str,
    construction: str,
    seeds: int,
    methods: Sequence[str] | None,
) -> str:
    """What makes the table again, without the paths of this machine."""
    known = dataset if dataset in (*CATALOG, "simulated") else "PATH"
    if methods is not None:  # the notebook always runs all of them
        folder = "" if data_dir is None else ", data_dir='PATH'"
        return (
            f"cfmtl_lib.table4({known!r}{folder}, labelling={labelling!r}, construction={construction!r}, "
            f"seeds={seeds}, methods={list(methods)})"
        )
    folder = "" if data_dir is None else " -p data_dir PATH"
    return (
        f"papermill notebooks/07_table4.md out.ipynb -p dataset {known}{folder} -p labelling {labelling} "
        f"-p construction {construction} -p seeds {seeds} -p results_dir results"
    )


def _check_row(row: dict[str, Any], n_pairs: int) -> None:
    """Invariants of every published row; a violation is a bug, not bad input."""
    n_treated = row["positive"] + row["negative"] + row["neutral"]
    if n_treated > treatable(n_pairs, PAPER.budget):
        raise AssertionError(f"{n_treated} treated of {n_pairs} break the budget {PAPER.budget}: {row}")
    if abs(row["reward"] - (row["positive"] - PAPER.cost * row["negative"])) > 1e-6:
        raise AssertionError(f"reward is not positive - cost * negative: {row}")


def _one_or_both(subject: str, value: str, known: Sequence[str]) -> tuple[str, ...]:
    return tuple(known) if check_choice(subject, value, (*known, "both")) == "both" else (value,)


def _positive(subject: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(subject, expected="a whole number >= 1", found=repr(value))
    return int(value)

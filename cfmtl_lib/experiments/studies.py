"""Runs of one task over many studies (labellings, constructions, seeds), side by side, with provenance."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.checks import check_count
from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.datasets.loading import OBSERVED_AT_RANDOM, load_study, ratings_of, refuse_threshold
from cfmtl_lib.datasets.ratings import Ratings
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.experiments.methods import fit_methods
from cfmtl_lib.policy.allocation import allocate
from cfmtl_lib.protocol import CONSTRUCTIONS, LABELLINGS, PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.engine_log import engines_inside, note_engines
from cfmtl_lib.runtime.files import try_folder
from cfmtl_lib.runtime.fit_cache import FitCache, Origin, content_hash, provenance_of_fits
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.provenance import RunRecord, save_together
from cfmtl_lib.runtime.threads import load_before_threads, one_thread_beside, one_torch_thread

TableRows = Mapping[str, list[dict[str, Any]]]
"""Results of the work on one study: by table, rows as dictionaries."""


class Task(NamedTuple):
    """One study: one labelling, one construction and one seed."""

    labelling: str
    construction: str
    seed: int


@dataclass(frozen=True)
class StudySettings:
    """Settings that choose the studies and how they are computed.

    Parameters
    ----------
    dataset : str
        "simulated", a name in the catalog, or a path to a ratings table.
    data_dir : str or Path, optional
        Folder of the dataset's file; see :func:`~cfmtl_lib.datasets.ratings.load_ratings`.
    threshold : float, optional
        Rating above which an outcome is 1; that of the dataset if left out.
    labelling : {"code", "text", "both"}
        Rule by which each half of the network's ranking of pairs becomes a stratum. "code" follows the
        authors' code, "text" the paper's text.
    construction : {"authors", "document", "both"}
        Source of the losses of the two networks that build the semi-synthetic data. "authors" is the
        authors' code, "document" the reproduction report.
    seeds : int
        Number of seeds: 0, 1, ...
    device : str
    n_jobs : int, optional
        Number of fits side by side, each on one thread. They belong to different studies, or to one if
        there is only one. Default: the number of cores on a CPU, one on an accelerator. Rows do not
        depend on it.
    fits_dir : str or Path, optional
        Folder of the cache of fits; see :class:`~cfmtl_lib.runtime.fit_cache.FitCache`.
    progress : bool
        Progress reports on stderr.
    """

    dataset: str = "simulated"
    data_dir: str | Path | None = None
    threshold: float | None = None
    labelling: str = "code"
    construction: str = "both"
    seeds: int = 5
    device: str = "auto"
    n_jobs: int | None = None
    fits_dir: str | Path | None = None
    progress: bool = True

    def tasks(self) -> list[Task]:
        """List the studies that the settings ask for.

        Raises
        ------
        UnknownNameError, InputError
            If a name is unknown or a count is not positive.
        """
        return [
            Task(rule, fits, seed)
            for rule in one_or_both("labelling", self.labelling, LABELLINGS)
            for fits in one_or_both("construction", self.construction, CONSTRUCTIONS)
            for seed in range(check_count(self.seeds, "seeds"))
        ]

    def papermill(self, notebook: str) -> str:
        """Write the command that runs these studies by a notebook, without the paths of this machine."""
        folder = "" if self.data_dir is None else " -p data_dir PATH"
        folder += "" if self.threshold is None else f" -p threshold {self.threshold:g}"
        return (
            f"papermill notebooks/{notebook}.md out.ipynb -p dataset {self.public_name()}{folder} "
            f"-p labelling {self.labelling} -p construction {self.construction} -p seeds {self.seeds} "
            "-p results_dir results"
        )

    def call(self, function: str, **options: object) -> str:
        """Write the Python call that runs these studies, without the paths of this machine.

        Examples
        --------
        >>> StudySettings(labelling="text", seeds=2).call("cfmtl_lib.table4")
        "cfmtl_lib.table4('simulated', labelling='text', construction='both', seeds=2)"
        """
        given: dict[str, object] = {} if self.data_dir is None else {"data_dir": "PATH"}
        given |= {} if self.threshold is None else {"threshold": self.threshold}
        given |= {"labelling": self.labelling, "construction": self.construction}
        given |= {"seeds": self.seeds} if "count" not in options else {}
        words = [
            repr(self.public_name()),
            *(f"{name}={value!r}" for name, value in (given | options).items()),
        ]
        return f"{function}({', '.join(words)})"

    def public_name(self) -> str:
        """Give the dataset's name, or PATH for a path."""
        return self.dataset if self.dataset in (*CATALOG, "simulated") else "PATH"


class SettingOptions(TypedDict, total=False):
    """Keywords of the functions that make tables: fields of :class:`StudySettings` except the dataset."""

    data_dir: str | Path | None
    threshold: float | None
    labelling: str
    construction: str
    seeds: int
    device: str
    n_jobs: int | None
    fits_dir: str | Path | None
    progress: bool


def settings_of(
    dataset: str | StudySettings, given: SettingOptions, **defaults: Unpack[SettingOptions]
) -> StudySettings:
    """Combine a dataset and keywords into the settings of a function.

    Parameters
    ----------
    dataset : str or StudySettings
        Name of a dataset, or settings, which are returned unchanged.
    given : dict
        Keywords of the caller, allowed only with the name of a dataset.
    **defaults
        Defaults of the calling function that differ from those of :class:`StudySettings`.

    Raises
    ------
    UnknownNameError
        If a keyword is no setting.
    InputError
        If keywords come with settings.
    """
    for name in given:
        check_choice("setting", name, SettingOptions.__annotations__)
    if isinstance(dataset, StudySettings):
        if given:
            raise InputError("settings", expected="no keywords beside StudySettings", found=", ".join(given))
        return dataset
    merged: SettingOptions = {**defaults, **given}
    return StudySettings(dataset, **merged)


@dataclass
class StudyContext:
    """One study, and what the work on it needs.

    Attributes
    ----------
    study : Study
    ratings : Ratings or None
        Ratings that the study was constructed from; None if it was simulated.
    device : str
    cache : FitCache
    n_jobs : int
        Number of fits that this study may run side by side.
    """

    study: Study
    ratings: Ratings | None
    device: str
    cache: FitCache
    n_jobs: int

    @property
    def key(self) -> dict[str, str]:
        """Give the columns that identify the data of a row."""
        study = self.study
        return {
            "dataset": study.dataset,
            "labelling": study.labelling,
            "construction": study.construction,
        }

    @property
    def content(self) -> str:
        """Hash what an experiment on this study depends on: the log, the test pairs and their strata."""
        log, test = self.study.train, self.study.test
        return content_hash(log.x, log.t, log.c, log.y, log.pair_space, test.x, test.stratum)

    def fitted(self, names: Sequence[str], **fit_settings: Any) -> dict[str, LogEstimator]:
        """Fit methods with the seed of the study; see :func:`~cfmtl_lib.experiments.methods.fit_methods`."""
        return fit_methods(
            self.study,
            names,
            device=self.device,
            seed=self.study.seed,
            n_jobs=self.n_jobs,
            cache=self.cache,
            **fit_settings,
        )


@dataclass
class Run:
    """Tables of a run, with their provenance.

    Attributes
    ----------
    tables : dict of str to DataFrame
    dataset : str
        Name of the dataset in the rows.
    provenance : dict
    """

    tables: dict[str, pd.DataFrame]
    dataset: str
    provenance: dict[str, Any]

    def save(self, results_dir: str | Path | None, *others: Run) -> None:
        """Write all tables to ``<results_dir>/<dataset>/``; write nothing if there is no folder.

        Tables of other runs on the same dataset, if any, are written with them as one unit.
        """
        if results_dir is not None:
            parts = [(run.tables, run.provenance) for run in (self, *others)]
            save_together(parts, Path(results_dir) / self.dataset)


def run_studies(
    work: Callable[[StudyContext], TableRows],
    settings: StudySettings,
    *,
    label: str,
    command: str,
    tables: Mapping[str, Sequence[str]],
    protocol: Mapping[str, Any] | None = None,
    results_dir: str | Path | None = None,
) -> Run:
    """Do the work on every study of the settings and join the rows, in the order of the studies.

    Parameters
    ----------
    work : callable
        Function that takes a :class:`StudyContext` and returns rows by table.
    settings : StudySettings
    label : str
        Name of the work in progress messages.
    command : str
        Command that repeats the run, for the provenance.
    tables : mapping of str to sequence of str
        Columns by table.
    protocol : mapping, optional
        Settings to note beside cost and budget.
    results_dir : str or Path, optional
        Folder that the run will be saved to, tried before the first fit. Nothing is saved yet.

    Returns
    -------
    Run

    Raises
    ------
    UnknownNameError, InputError
        If a name is unknown or a count is not positive.
    ResultsError
        If nothing can be written to the folder.
    RatingsError, StudyError
        If the data cannot be read, or no study can be made from them.
    """
    tasks = settings.tasks()
    record = RunRecord(command=command, seeds=range(settings.seeds))
    kind = resolve_device(settings.device).type
    n_jobs = settings.n_jobs
    if n_jobs is None:
        n_jobs = (os.cpu_count() or 1) if kind == "cpu" else 1
    inside = max(1, check_count(n_jobs, "n_jobs") // len(tasks))
    # Read once for all studies, where they share one table.
    shared = settings.dataset not in ("simulated", *OBSERVED_AT_RANDOM)
    refuse_threshold(settings.dataset, settings.threshold)
    source: str | Ratings = settings.dataset
    if shared:
        source = ratings_of(settings.dataset, settings.data_dir, threshold=settings.threshold)
    if results_dir is not None:
        name = source.name if isinstance(source, Ratings) else settings.dataset
        try_folder(Path(results_dir) / name)
    load_before_threads()
    FitCache()  # digests the library's sources, for all that follow: parsing is no work for threads either
    # Threads, which also share the ratings; joblib's parallel_config can send the studies elsewhere.
    run = joblib.Parallel(n_jobs=min(n_jobs, len(tasks)), prefer="threads", return_as="generator")(
        joblib.delayed(_one_study)(work, task, source, settings, inside, n_jobs > 1) for task in tasks
    )
    parts = list(
        track(
            run, total=len(tasks), label=f"{label} on {settings.dataset}: studies", enabled=settings.progress
        )
    )
    note_engines(engine for part in parts for engine in part.engines)  # of other processes
    frames = {
        name: pd.DataFrame([row for part in parts for row in part.rows[name]], columns=list(columns))
        for name, columns in tables.items()
    }
    fingerprints = {
        f"{task.labelling} {task.construction} {task.seed}": part.fingerprint
        for task, part in zip(tasks, parts, strict=True)
    }
    provenance = record.finish(
        data_fingerprint=(parts[0].fingerprint if len(set(fingerprints.values())) == 1 else fingerprints),
        protocol={
            "cost": PAPER.cost,
            "budget": PAPER.budget,
            "outcome": parts[0].outcome,
            **(protocol or {}),
        },
        device=kind,
        **provenance_of_fits({name: origin for part in parts for name, origin in part.fits.items()}),
    )
    return Run(frames, parts[0].dataset, provenance)


class _Part(NamedTuple):
    """Results of one study."""

    rows: TableRows
    fingerprint: str
    dataset: str
    outcome: str
    fits: dict[str, Origin]
    engines: list[str]


def _one_study(
    work: Callable[[StudyContext], TableRows],
    task: Task,
    source: str | Ratings,
    settings: StudySettings,
    n_jobs: int,
    beside_others: bool,
) -> _Part:
    cache = FitCache(settings.fits_dir)
    with one_torch_thread(), one_thread_beside(beside_others), engines_inside() as engines:
        if isinstance(source, str) and source in OBSERVED_AT_RANDOM:
            source = ratings_of(source, settings.data_dir, task.seed, settings.threshold)
        study = load_study(
            source, settings.data_dir, *task, device=settings.device, n_jobs=n_jobs, cache=cache
        )
        ratings = source if isinstance(source, Ratings) else None
        rows = work(StudyContext(study, ratings, settings.device, cache, n_jobs))
    return _Part(rows, study.fingerprint, study.dataset, study.outcome_rule, cache.used, sorted(engines))


def one_or_both(subject: str, value: str, known: Sequence[str]) -> tuple[str, ...]:
    """List the names that a parameter stands for: one, or all for "both".

    Examples
    --------
    >>> one_or_both("labelling", "both", ("code", "text"))
    ('code', 'text')
    """
    return tuple(known) if check_choice(subject, value, (*known, "both")) == "both" else (value,)


def paper_policy(reward: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Treat the largest positive rewards within the published budget.

    Pairs of a study are in random order already. So the first of equal rewards are taken, as in the published
    tables.
    """
    return allocate(reward, PAPER.budget, ties="first")

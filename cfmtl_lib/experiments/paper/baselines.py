"""Rewards of related systems on the studies of Table 4: learners of effects, entire-space and latent ones."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.base import LogEstimator, StrataEstimator
from cfmtl_lib.estimators.effects.base import EffectEstimator, reward_of_effects
from cfmtl_lib.experiments.methods import (
    METHODS,
    NET_METHODS,
    RELATED,
    estimator,
    known_methods,
    related_methods,
)
from cfmtl_lib.experiments.paper.tables import (
    COUNTS,
    KEY,
    REFERENCE_POLICIES,
    checked_counts,
    rows_asked_for,
)
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
from cfmtl_lib.runtime.devices import resolve_device

LEARNING_PACKAGES = ("lightgbm", "econml", "stochtree")
"""Packages that fits may come from; their versions are part of the provenance and of the cache's key."""

COLUMNS = [*KEY, *COUNTS, "fit_seconds", "rows_used"]


def baseline_rewards(
    dataset: str | StudySettings = "simulated",
    *,
    methods: Sequence[str] | str | None = None,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Compute the rewards of learners that stand beside the paper's methods, as Table 4 does.

    Studies, cost, budget and seeds are those of :func:`~cfmtl_lib.experiments.paper.tables.table4`. So rows
    of one seed of both tables are about the same test pairs. Every learner has its default settings. With
    ``fits_dir``, counts are stored as soon as a learner is fitted, and an interrupted run continues.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`, except that both
        labellings are the default.
    methods : sequence of str, or str, optional
        Names of methods, or a text of names separated by commas; those of
        :func:`~cfmtl_lib.experiments.methods.related_methods` if left out.
    results_dir : str or Path, optional
        Folder for ``<dataset>/baselines.csv`` and its provenance. Nothing is written before all rows are
        computed and checked.

    Returns
    -------
    DataFrame
        Columns of :func:`~cfmtl_lib.experiments.paper.tables.table4`, ``fit_seconds`` and ``rows_used``. The
        seconds are those of the fit alone. The rows are those that the fit is made on, a sample where the
        learner has ``max_rows``. ``attrs["provenance"]`` holds the provenance.

    Raises
    ------
    UnknownNameError, InputError
        If a name is unknown, a count is not positive, or a learner's package is missing.
    RatingsError, StudyError
        If the data cannot be read, or no study can be made from them.
    """
    names = rows_asked_for(methods, related_methods())
    chosen = settings_of(dataset, settings, labelling="both")

    def work(context: StudyContext) -> TableRows:
        return {"baselines": [row for name in names for row in _rows(name, context)]}

    run = run_studies(
        work,
        chosen,
        label="Baselines",
        results_dir=results_dir,
        command=chosen.call(
            "cfmtl_lib.experiments.paper.baselines.baseline_rewards",
            **({} if methods is None else {"methods": names}),
        ),
        tables={"baselines": COLUMNS},
    )
    run.provenance["versions"] |= package_versions()
    run.save(results_dir)
    run.tables["baselines"].attrs["provenance"] = run.provenance
    return run.tables["baselines"]


STUDY = ["labelling", "construction", "seed"]
"""Columns that name a study of a dataset."""


def on_shared_studies(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Join rows of related systems with those of Table 4 on the studies that both have.

    Parameters
    ----------
    found : DataFrame
        Result of :func:`baseline_rewards`.
    table : DataFrame
        Result of :func:`~cfmtl_lib.experiments.paper.tables.table4` on the same dataset.

    Returns
    -------
    DataFrame
        Columns of Table 4, each method once in each study. A method of both tables is taken from ``found``,
        whose studies were all built by one run.

    Raises
    ------
    InputError
        If the datasets differ, or no study is in both.
    """
    names = sorted({*found["dataset"], *table["dataset"]})
    if len(names) != 1:
        raise InputError("dataset", expected="one in both tables", found=", ".join(names))
    shared = found[STUDY].drop_duplicates().merge(table[STUDY].drop_duplicates())
    if shared.empty:
        raise InputError("tables", expected="studies that both have", found="none")
    both = pd.concat([table[~table["method"].isin(found["method"])], found])[[*KEY, *COUNTS]]
    return both.merge(shared).reset_index(drop=True)


def summary_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarise rewards over seeds, and say what kind of method each is.

    Parameters
    ----------
    rows : DataFrame
        Rows of Table 4, or of :func:`on_shared_studies`.

    Returns
    -------
    DataFrame
        Columns ``labelling, construction, scenario, method``; ``mean`` and ``se`` (standard error over seeds,
        NaN for one seed) of the reward, ``seeds``. ``kind`` is one of :data:`KINDS`. ``strata`` says whether
        the method gives the five strata's probabilities.
    """
    keys = ["labelling", "construction", "scenario", "method"]
    by = rows.groupby(keys, sort=False)["reward"]
    table = by.agg(mean="mean", se="sem", seeds="count").reset_index()
    strata = {name for name in known_methods() if isinstance(estimator(name), StrataEstimator)}
    return table.assign(
        kind=[kind_of(name) for name in table["method"]],
        strata=table["method"].isin(strata),
    )


KINDS = ("paper", "cost on take-up", *RELATED, "reference", "other")
"""Kinds of methods: of the paper, uplift with the cost on take-up, three kinds of related systems, others."""


def kind_of(name: str) -> str:
    """Name the kind of a method, one of :data:`KINDS`.

    Examples
    --------
    >>> kind_of("CF-MTL"), kind_of("OR-net"), kind_of("Oracle")
    ('paper', 'cost on take-up', 'reference')
    """
    lists = {"paper": METHODS, "cost on take-up": NET_METHODS, "reference": REFERENCE_POLICIES}
    for kind, names in lists.items():
        if name in names:
            return kind
    model = estimator(name)
    return next((kind for kind, base in RELATED.items() if isinstance(model, base)), "other")


def package_versions() -> dict[str, str]:
    """Return the versions of :data:`LEARNING_PACKAGES`, "none" where one is not installed."""
    versions = {}
    for name in LEARNING_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    return versions


def _rows(name: str, context: StudyContext) -> list[dict[str, Any]]:
    """Compute both scenarios' rows of a method, or take their numbers from the cache."""
    study = context.study
    model = estimator(name, device=context.device, seed=study.seed)
    settings = model.get_params(deep=False)
    if "n_jobs" in settings:  # studies run side by side already
        model.set_params(n_jobs=context.n_jobs)
    for unimportant in ("device", "progress", "n_jobs"):
        settings.pop(unimportant, None)
    numbers = context.cache(
        partial(_numbers, model, context),
        fit="rewards of a method",
        method=name,
        settings=sorted(settings.items()),
        device=resolve_device(context.device).type,
        packages=package_versions(),
        data=context.content,
    )
    key = context.key | {"method": name, "seed": study.seed}
    return [key | {"scenario": scenario} | part for scenario, part in zip(SCENARIOS, numbers, strict=True)]


def _numbers(model: LogEstimator, context: StudyContext) -> list[dict[str, Any]]:
    study = context.study
    start = time.perf_counter()
    model.fit(study.train)
    about_fit = {
        "fit_seconds": round(time.perf_counter() - start, 2),
        "rows_used": getattr(model, "n_rows_", len(study.train)),
    }
    if isinstance(model, EffectEstimator):  # both scenarios in one pass: trees of many draws are slow
        reward = partial(reward_of_effects, model.predict_effects(study.test.x), cost=PAPER.cost)
    else:
        reward = partial(model.predict_reward, study.test.x, cost=PAPER.cost)
    return [
        checked_counts(paper_policy(reward(scenario=scenario)), study, scenario) | about_fit
        for scenario in SCENARIOS
    ]

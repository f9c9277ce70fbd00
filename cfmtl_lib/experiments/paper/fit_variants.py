"""Rewards and epochs of fits that differ from the paper's, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

import pandas as pd
from scipy import stats

from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.experiments.methods import METHODS
from cfmtl_lib.experiments.paper.tables import checked_counts
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

AS_IN_THE_PAPER = "paper"

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {AS_IN_THE_PAPER: {}, "additive": {"parametrisation": "additive"}}
)
"""Settings of :class:`~cfmtl_lib.models.config.FitConfig` to change, by name of the variant."""

VARIANT_COLUMNS = [
    "dataset",
    "labelling",
    "construction",
    "scenario",
    "method",
    "variant",
    "seed",
    "reward",
    "epochs",
]


def fit_variants(
    dataset: str | StudySettings = "simulated",
    *,
    methods: Sequence[str] = tuple(METHODS),
    variants: Mapping[str, Mapping[str, Any]] = VARIANTS,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Compute rewards of methods whose fits are made in several ways, on the same studies.

    The data are constructed as published in every variant: only the fits of the methods differ.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    methods : sequence of str
        Names from :data:`~cfmtl_lib.experiments.methods.METHODS`.
    variants : mapping of str to mapping
        Settings of :class:`~cfmtl_lib.models.config.FitConfig` to change, by name of the variant.
    results_dir : str or Path, optional
        Folder for ``<dataset>/fit_variants.csv`` and its provenance. Nothing is written if left out.

    Returns
    -------
    DataFrame
        Columns :data:`VARIANT_COLUMNS`. ``epochs`` is the sum over the fits that the method predicts by.
        It leaves out the fits of propensities and regressions that went into their targets.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    names = [check_choice("method", name, METHODS) for name in methods]
    if not names or not variants:
        raise InputError("methods and variants", expected="at least one of each", found="none")
    chosen = settings_of(dataset, settings)

    def work(context: StudyContext) -> TableRows:
        rows = []
        for variant, settings in variants.items():
            models = context.fitted(names, **settings)
            for name in names:
                for scenario in SCENARIOS:
                    reward = models[name].predict_reward(context.study.test.x, scenario, PAPER.cost)
                    counts = checked_counts(paper_policy(reward), context.study, scenario)
                    rows.append(
                        context.key
                        | {"scenario": scenario, "method": name, "variant": variant}
                        | {"seed": context.study.seed, "reward": counts["reward"]}
                        | {"epochs": _epochs(models[name])}
                    )
        return {"fit_variants": rows}

    run = run_studies(
        work,
        chosen,
        label="Variants of the fits",
        results_dir=results_dir,
        command=chosen.call(
            "cfmtl_lib.fit_variants",
            methods=names,
            variants={name: dict(change) for name, change in variants.items()},
        ),
        tables={"fit_variants": VARIANT_COLUMNS},
    )
    run.save(results_dir)
    table = run.tables["fit_variants"]
    table.attrs["provenance"] = run.provenance
    return table


def differences_of_variants(table: pd.DataFrame, baseline: str = AS_IN_THE_PAPER) -> pd.DataFrame:
    """Estimate the mean difference of each variant to a baseline, paired by seed.

    Parameters
    ----------
    table : DataFrame
        Table that :func:`fit_variants` returns.
    baseline : str
        Name of the variant to compare with.

    Returns
    -------
    DataFrame
        One row for each labelling, construction, scenario, method and variant. ``baseline`` and ``reward``
        are means in conversions. ``difference`` has its ``standard_error`` over seeds and its ``percent`` of
        the baseline. ``low`` and ``high`` are its 95 % confidence limits (Student's t).
    """
    key = ["labelling", "construction", "scenario", "method"]
    wide = table.pivot_table(index=[*key, "seed"], columns="variant", values="reward", sort=False)
    rows = []
    for variant in wide.columns.drop(check_choice("baseline", baseline, list(wide.columns))):
        for _, group in wide.groupby(level=key, sort=False):
            of_seed = group[variant] - group[baseline]
            n, mean = len(of_seed), float(of_seed.mean())
            error = float(of_seed.std()) / n**0.5
            half = stats.t.ppf(0.975, n - 1) * error if n > 1 else float("nan")
            rows.append(
                dict(zip(key, group.index[0], strict=False))
                | {"variant": variant, "baseline": group[baseline].mean(), "reward": group[variant].mean()}
                | {"difference": mean, "standard_error": error}
                | {"percent": 100 * mean / group[baseline].mean(), "low": mean - half, "high": mean + half}
            )
    return pd.DataFrame(rows)


def _epochs(model: LogEstimator) -> int:
    histories = model.histories_ if isinstance(model, CFMTL) else _histories_of_moments(model)
    return sum(history.n_epochs for history in histories.values())


def _histories_of_moments(model: Any) -> dict[str, Any]:
    own = {f"{model.family} {name}" for name in model.uses}
    return {name: history for name, history in model.nuisances_.histories.items() if name in own}

"""The published tables as data: methods, settings and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.checks import describe
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.experiments.methods import ABLATIONS, METHODS, NET_METHODS, known_methods
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
from cfmtl_lib.policy.rewards import SCENARIOS, count_outcomes, expected_reward, stratum_rewards
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.strata import STRATA

REFERENCE_POLICIES = ("Oracle", "Random")
"""Rows without a fit: a policy that knows every stratum, and one that draws pairs at random."""

ROWS_OF_TABLE4 = (*METHODS, *NET_METHODS, *REFERENCE_POLICIES)

KEY = ["dataset", "labelling", "construction", "scenario", "method", "seed"]
COUNTS = ["positive", "negative", "neutral", "reward"]


def table4(
    dataset: str | StudySettings = "simulated",
    *,
    methods: Sequence[str] | str | None = None,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Compute Table 4: whom each method treats under the budget, and the reward on the test pairs.

    The strata of the test pairs are known. Both scenarios come from one set of fits, and moments that
    methods have in common are fitted once. Cost and budget are the published 0.4 and 0.4. Below the nine
    printed methods stand uplift models that charge the cost on take-up. Two references follow: a policy that
    knows every stratum, and a random policy.

    Parameters
    ----------
    dataset : str or StudySettings
        "simulated", a name in the catalog, or a path to a ratings table; or all settings at once.
    methods : sequence of str, or str, optional
        Names of rows: any of :func:`~cfmtl_lib.experiments.methods.known_methods` and of
        :data:`REFERENCE_POLICIES`. A text holds one or more, separated by commas. Those of
        :data:`ROWS_OF_TABLE4` if left out.
    results_dir : str or Path, optional
        Folder for ``<dataset>/table4.csv``, ``<dataset>/table4_treated.csv`` (treated pairs by stratum) and
        the provenance of each. Nothing is written before all rows are computed and checked.
    **settings
        Other fields of :class:`~cfmtl_lib.experiments.studies.StudySettings`: ``data_dir, labelling,
        construction, seeds, device, n_jobs, fits_dir, progress``. ``labelling`` says which half of the
        ranking becomes which stratum: as the authors' "code" does, or as the paper's "text" says.
        ``construction`` says whose losses build the semi-synthetic data: those of the "authors" or those of
        the reproduction report, "document". Each seed is a new construction and new fits.

    Returns
    -------
    DataFrame
        Long form: ``dataset, labelling, construction, scenario, method, seed, positive, negative, neutral,
        reward``. ``attrs["provenance"]`` holds the provenance.

    Raises
    ------
    UnknownNameError, InputError
        If a name is unknown or a count is not positive.
    RatingsError, StudyError
        If the data cannot be read, or no study can be made from them.
    """
    names = rows_asked_for(methods)
    chosen = settings_of(dataset, settings)

    def work(context: StudyContext) -> TableRows:
        models = context.fitted([name for name in names if name not in REFERENCE_POLICIES])
        counts, treated = [], []
        for name in names:
            for scenario in SCENARIOS:
                reward = (
                    models[name].predict_reward(context.study.test.x, scenario, PAPER.cost)
                    if name in models
                    else reference_rewards(name, context.study, scenario, PAPER.cost)
                )
                key = context.key | {"scenario": scenario, "method": name, "seed": context.study.seed}
                treat = paper_policy(reward)
                counts.append(key | checked_counts(treat, context.study, scenario))
                by_stratum = np.bincount(context.study.test.stratum[treat], minlength=len(STRATA))
                treated.append(key | dict(zip(STRATA, by_stratum.tolist(), strict=True)))
        return {"table4": counts, "table4_treated": treated}

    run = run_studies(
        work,
        chosen,
        label="Table 4",
        results_dir=results_dir,
        command=chosen.papermill("07_table4")
        if methods is None
        else chosen.call("cfmtl_lib.table4", methods=names),
        tables={"table4": KEY + COUNTS, "table4_treated": [*KEY, *STRATA]},
        protocol={"cell_form": "product"},
    )
    run.save(results_dir)
    run.tables["table4"].attrs["provenance"] = run.provenance
    return run.tables["table4"]


def rows_asked_for(methods: Sequence[str] | str | None, default: Sequence[str] = ROWS_OF_TABLE4) -> list[str]:
    """List the rows of a table by name, each once.

    Parameters
    ----------
    methods : sequence of str, or str, or None
        Names, or a text of names separated by commas. None: ``default``.
    default : sequence of str

    Raises
    ------
    UnknownNameError
        If a name is neither a method nor a reference policy. The error lists all of them.
    InputError
        If there is no name.

    Examples
    --------
    >>> rows_asked_for("CF-OR, Oracle,")
    ['CF-OR', 'Oracle']
    """
    if methods is None:
        return list(default)
    if not isinstance(methods, str | Iterable):
        raise InputError("methods", expected="names, or a text of names", found=describe(methods))
    given = [part.strip() for part in methods.split(",")] if isinstance(methods, str) else list(methods)
    names = dict.fromkeys(name for name in given if name != "")
    if not names:
        raise InputError("methods", expected="at least one name", found="none")
    # The printed methods first: who mistypes a name most likely means one of them.
    known = dict.fromkeys([*METHODS, *known_methods(), *REFERENCE_POLICIES])
    return [check_choice("method", name, tuple(known)) for name in names]


def table5_6(
    dataset: str | StudySettings = "simulated",
    *,
    methods: Sequence[str] = ("CF-MTL-v1", "CF-MTL"),
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Compute Tables 5 and 6: CF-MTL without either or both loss terms of the untreated cells.

    "L_001" is the term of the cell (T, C, Y) = (0, 0, 1), "L_000" that of (0, 0, 0). Without both, coupon
    buyers and always buyers appear in the loss only as their sum. Then they are not identified separately.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    methods : sequence of str
        Names of the methods: "CF-MTL-v1", whose rows are printed, and "CF-MTL".
    results_dir : str or Path, optional
        Folder for ``<dataset>/table5_6.csv`` and its provenance. Nothing is written if left out.

    Returns
    -------
    DataFrame
        Long form: ``dataset, labelling, construction, scenario, method, keeps_001, keeps_000, seed, positive,
        negative, neutral, reward``. ``attrs["provenance"]`` holds the provenance.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`table4`.
    """
    known = tuple(dict.fromkeys(row.method for row in ABLATIONS.values()))
    methods = [check_choice("method", name, known) for name in methods]
    if not methods:
        raise InputError("methods", expected="at least one name", found="none")
    names = [name for method in methods for name, row in ABLATIONS.items() if row.method == method]
    chosen = settings_of(dataset, settings)

    def work(context: StudyContext) -> TableRows:
        models = context.fitted(names)
        return {
            "table5_6": [
                context.key
                | {"scenario": scenario, **ABLATIONS[name]._asdict(), "seed": context.study.seed}
                | checked_counts(
                    paper_policy(models[name].predict_reward(context.study.test.x, scenario, PAPER.cost)),
                    context.study,
                    scenario,
                )
                for name in names
                for scenario in SCENARIOS
            ]
        }

    run = run_studies(
        work,
        chosen,
        label="Tables 5 and 6",
        results_dir=results_dir,
        command=(
            chosen.papermill("08_tables5_6")
            if set(methods) == set(known)
            else chosen.call("cfmtl_lib.table5_6", methods=methods)
        ),
        tables={"table5_6": [*KEY[:-1], "keeps_001", "keeps_000", "seed", *COUNTS]},
    )
    run.save(results_dir)
    run.tables["table5_6"].attrs["provenance"] = run.provenance
    return run.tables["table5_6"]


def reference_rewards(name: str, study: Study, scenario: str, cost: float) -> NDArray[np.float64]:
    """Compute the rewards by which the policy "Oracle" or "Random" ranks test pairs; shape (n_test,)."""
    if check_choice("reference policy", name, REFERENCE_POLICIES) == "Oracle":
        return stratum_rewards(scenario, cost)[study.test.stratum]
    return np.random.default_rng([study.seed, 2]).random(len(study.test))


def true_probability_rewards(study: Study) -> pd.DataFrame:
    """Compute the reward of a policy that knows the true strata probabilities of a simulation.

    No method can expect to earn more.

    Returns
    -------
    DataFrame
        One row for each scenario; columns ``scenario, positive, negative, neutral, reward``.

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
        treat = paper_policy(expected_reward(p, scenario, PAPER.cost))
        rows.append({"scenario": scenario, **checked_counts(treat, study, scenario)})
    return pd.DataFrame(rows)


def checked_counts(treat: NDArray[np.bool_], study: Study, scenario: str) -> dict[str, Any]:
    """Count whom a policy treated and what that earned, and check the counts."""
    row = count_outcomes(treat, study.test.stratum, scenario, PAPER.cost)._asdict()
    _check_row(row, len(study.test))
    return row


def _check_row(row: dict[str, Any], n_pairs: int) -> None:
    """Check the invariants of a published row; a violation is a bug, not bad input."""
    n_treated = row["positive"] + row["negative"] + row["neutral"]
    if n_treated > treatable(n_pairs, PAPER.budget):
        raise AssertionError(f"{n_treated} treated of {n_pairs} break the budget {PAPER.budget}: {row}")
    if abs(row["reward"] - (row["positive"] - PAPER.cost * row["negative"])) > 1e-6:
        raise AssertionError(f"reward is not positive - cost * negative: {row}")

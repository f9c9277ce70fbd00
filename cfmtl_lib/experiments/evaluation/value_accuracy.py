"""Accuracy of policy values estimated from a log, where known strata give the true value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from cfmtl_lib.datasets.simulation_features import means_of
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.experiments.evaluation.richer_nuisances import (
    boosted_propensity,
    factorised_means,
    factorization,
)
from cfmtl_lib.experiments.methods import METHODS, NET_METHODS
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
from cfmtl_lib.models.pair_networks import predict_probability
from cfmtl_lib.nuisances.moments import MOMENTS, LogNuisances
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances
from cfmtl_lib.policy.rewards import SCENARIOS, count_outcomes
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.fit_cache import FitCache
from cfmtl_lib.strata import COUPON_TAKER, observe
from cfmtl_lib.value.confounding import confounding_bound
from cfmtl_lib.value.diagnostics import check_implications, negative_control, overlap, propensity_calibration
from cfmtl_lib.value.estimates import policy_value

SOURCES = ("known", "additive", "factorization", "boosted trees", "boosted trees, factorised outcomes")
"""Sources of propensity and outcome means; outcome means are additive unless the name says otherwise."""

KEY = ["dataset", "labelling", "construction", "nuisances"]
VALUE_COLUMNS = [
    *KEY[:3],
    "scenario",
    "method",
    "nuisances",
    "seed",
    "true_reward",
    "estimate",
    "standard_error",
    "robustness_value",
]
DIAGNOSTIC_COLUMNS = [
    *KEY,
    "seed",
    "log_loss",
    "calibration_p",
    "control_effect",
    "control_standard_error",
    "implications_violated",
    "effective_sample_size_treated",
    "effective_sample_size_untreated",
]


@dataclass(frozen=True, eq=False)
class JudgedLog:
    """Log of the test pairs, with a negative control.

    Attributes
    ----------
    log : IncentiveLog
        Log whose treatment is drawn with the true propensity, which the log carries.
    control : ndarray of shape (n,), int8
        Negative control: an outcome that is related to the confounders and that the treatment cannot change.
        It is whether the user rated the item at all. In a simulation it is a conversion in an earlier period
        without incentives.
    """

    log: IncentiveLog
    control: NDArray[np.int8]


def log_of_test_pairs(study: Study) -> JudgedLog:
    """Log the test pairs of a study as its training pairs were: T ~ Bernoulli(propensity), C(T) and Y(T).

    Parameters
    ----------
    study : Study

    Returns
    -------
    JudgedLog
    """
    test = study.test
    rng = np.random.default_rng([study.seed, 4])
    treated = (rng.random(len(test)) < test.propensity).astype(np.int8)
    collected, converted = observe(test.stratum, treated)
    n_users, n_items = study.train.pair_space
    log = IncentiveLog(test.x, treated, collected, converted, test.propensity, n_users, n_items)
    if test.strata_probability is None:
        # By construction of the semi-synthetic data, the three strata that collect are the rated pairs.
        control = test.stratum >= COUPON_TAKER
    else:
        control = rng.random(len(test)) < means_of(test.strata_probability)["converted_untreated"]
    return JudgedLog(log, control.astype(np.int8))


def nuisances_for(
    study: Study,
    log: IncentiveLog,
    sources: Sequence[str] = SOURCES,
    *,
    device: str = "auto",
    cache: FitCache | None = None,
) -> dict[str, LogNuisances]:
    """Estimate nuisances at the rows of a log of test pairs, all fitted on the training log.

    Parameters
    ----------
    study : Study
    log : IncentiveLog
        Log of test pairs; see :func:`log_of_test_pairs`.
    sources : sequence of str
        Names from :data:`SOURCES`.
    device : str
    cache : FitCache, optional
        Cache of the paper's networks, shared with the tables.

    Returns
    -------
    dict of str to LogNuisances
        Nuisances by source.

    Raises
    ------
    UnknownNameError
        If a source is unknown.
    """
    for source in sources:
        check_choice("nuisances", source, SOURCES)
    train, seed = study.train, study.seed
    networks = PairNuisances(
        train,
        config=PAPER.nuisance,
        propensity_clip=PAPER.propensity_clip,
        device=device,
        seed=seed,
        cache=cache,
    )
    additive = {name: predict_probability(networks.moment("OR", name), log.x) for name in MOMENTS}
    boosted: NDArray[np.float64] | None = None
    found: dict[str, LogNuisances] = {}
    for source in sources:
        means = additive
        if source == "known":
            propensity = log.propensity
        elif source == "additive":
            propensity = predict_probability(networks.propensity_network(), log.x)
        elif source == "factorization":
            of_t = factorization(train, train.t, np.arange(len(train)), seed=seed, device=device)
            propensity = of_t.predict_proba(log.x)[:, 1]
        else:
            if boosted is None:
                boosted = boosted_propensity(train, log.x, seed=seed, device=device)
            propensity = boosted
            if source == "boosted trees, factorised outcomes":
                means = factorised_means(train, log.x, seed=seed, device=device)
        assert propensity is not None
        found[source] = LogNuisances.from_means(propensity, means, propensity_is_known=source == "known")
    return found


def propensity_diagnostics(judged: JudgedLog, nuisances: LogNuisances) -> dict[str, float]:
    """Diagnose a propensity by what a log shows without the true one.

    Parameters
    ----------
    judged : JudgedLog
    nuisances : LogNuisances
        Nuisances at the rows of its log.

    Returns
    -------
    dict
        Last columns of :data:`DIAGNOSTIC_COLUMNS`. They are the log-loss of T, and the p-value of the
        calibration in twenty bins of the propensity. Next is the effect on the negative control with its
        standard error. Then come the number of groups whose strata shares violate a testable implication
        (Holm, 5 %), and the effective sample sizes of both arms.
    """
    log = judged.log
    control = negative_control(judged.control, log, nuisances)
    sizes = overlap(log, nuisances)["effective_sample_size"]
    return {
        "log_loss": float(log_loss(log.t, nuisances.propensity)),
        "calibration_p": propensity_calibration(log, nuisances).attrs["p_value"],
        "control_effect": control.value,
        "control_standard_error": control.standard_error,
        "implications_violated": int((check_implications(log, nuisances)["p_holm"] < 0.05).sum()),
        "effective_sample_size_treated": round(float(sizes["treated"])),
        "effective_sample_size_untreated": round(float(sizes["untreated"])),
    }


def policy_check(
    dataset: str | StudySettings = "simulated",
    *,
    sources: Sequence[str] = SOURCES,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare estimated with true rewards of every method's policy, and diagnose the propensities.

    Policies are those of Table 4 (test pairs, published cost and budget). Their true reward is counted. The
    estimated one comes from a log of the same pairs that shows T, C(T) and Y(T) only, for each source of the
    nuisances.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    sources : sequence of str
        Names from :data:`SOURCES`.
    results_dir : str or Path, optional
        Folder for ``<dataset>/policy_values.csv``, ``<dataset>/propensity_alarms.csv`` and their provenance.
        Nothing is written if left out.

    Returns
    -------
    values : DataFrame
        Columns ``dataset, labelling, construction, scenario, method, nuisances, seed``. Totals over the test
        pairs, in conversions: ``true_reward``, ``estimate``, ``standard_error``. ``robustness_value`` is the
        least strength of unmeasured confounding that could make the value 0. It is NaN where the propensity
        contradicts the log. ``attrs["provenance"]`` holds the provenance.
    alarms : DataFrame
        Columns ``dataset, labelling, construction, nuisances, seed`` and the keys of
        :func:`propensity_diagnostics`.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    chosen = settings_of(dataset, settings)
    for source in sources:
        check_choice("nuisances", source, SOURCES)

    def work(context: StudyContext) -> TableRows:
        judged = log_of_test_pairs(context.study)
        policies = _policies(context)
        by_source = nuisances_for(
            context.study, judged.log, sources, device=context.device, cache=context.cache
        )
        values, raised = [], []
        for source, nuisances in by_source.items():
            key = context.key | {"nuisances": source, "seed": context.study.seed}
            raised.append(key | propensity_diagnostics(judged, nuisances))
            for (method, scenario), treat in policies.items():
                found = _judge(treat, judged.log, nuisances, scenario)
                true = count_outcomes(treat, context.study.test.stratum, scenario, PAPER.cost).reward
                values.append(key | {"scenario": scenario, "method": method, "true_reward": true} | found)
        return {"policy_values": values, "propensity_alarms": raised}

    run = run_studies(
        work,
        chosen,
        label="Values of policies",
        results_dir=results_dir,
        command=chosen.papermill("06_policy"),
        tables={"policy_values": VALUE_COLUMNS, "propensity_alarms": DIAGNOSTIC_COLUMNS},
        protocol={"sources": list(sources)},
    )
    run.save(results_dir)
    values, raised = run.tables["policy_values"], run.tables["propensity_alarms"]
    values.attrs["provenance"] = run.provenance
    return values, raised


def _policies(context: StudyContext) -> Mapping[tuple[str, str], NDArray[np.bool_]]:
    names = [*METHODS, *NET_METHODS]
    models = context.fitted(names)
    x = context.study.test.x
    return {
        (name, scenario): paper_policy(models[name].predict_reward(x, scenario, PAPER.cost))
        for name in names
        for scenario in SCENARIOS
    }


def _judge(
    treat: NDArray[np.bool_], log: IncentiveLog, nuisances: LogNuisances, scenario: str
) -> dict[str, Any]:
    value = policy_value(treat, log, nuisances, scenario=scenario, cost=PAPER.cost)
    try:
        robustness = confounding_bound(
            treat,
            log,
            nuisances,
            outcome_strength=0.0,
            treatment_strength=0.0,
            scenario=scenario,
            cost=PAPER.cost,
        ).robustness_value
    except InputError:  # an overfitted propensity contradicts the log
        robustness = float("nan")
    return {
        "estimate": round(value.total, 2),
        "standard_error": round(value.total_standard_error, 2),
        "robustness_value": round(robustness, 4),
    }

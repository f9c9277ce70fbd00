"""Disagreements of text, code and tables that need fitted networks, measured on any dataset.

The chapter "Paper against code" explains each entry.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score

from cfmtl_lib.datasets.loading import construction_networks
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.estimators.baselines import OR
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_v1 import CFMTLv1
from cfmtl_lib.experiments.methods import NET_METHODS, fit_joint, fit_two_stage
from cfmtl_lib.experiments.paper.ledger_formulas import (
    CELL_VARIANTS,
    cell_variant_strata,
    labelling_quality,
    propensity_report,
    prose_cash_reward,
)
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
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.losses import CellWeights
from cfmtl_lib.models.pair_networks import AdditiveNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, fit_probability, new_network
from cfmtl_lib.nuisances.moments import FAMILIES, MOMENTS
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances
from cfmtl_lib.policy.rewards import SCENARIOS, stratum_rewards
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.strata import ALWAYS_BUYER, COUPON_BUYER, NEVER_BUYER, NEVER_TAKER, POTENTIAL_OUTCOMES
from cfmtl_lib.value.calibration import equal_size_bins

FIT_VARIANTS: dict[str, FitConfig] = {
    "as published": PAPER.nuisance,
    "cross-entropy": replace(PAPER.nuisance, loss="cross_entropy"),
    "count of stalls reset": replace(PAPER.nuisance, patience_resets=True, max_epochs=200),
    "last batch kept": replace(PAPER.nuisance, keep_last_batch=True),
}
"""Fits of the baselines, changed in one respect each. With the count reset they also have a limit on epochs,
because they can go on for long."""


def ledger(
    dataset: str | StudySettings = "simulated",
    *,
    results_dir: str | Path | None = None,
    **settings: Unpack[SettingOptions],
) -> pd.DataFrame:
    """Measure the disagreements that need fitted networks.

    Parameters
    ----------
    dataset, **settings
        Dataset and settings, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    results_dir : str or Path, optional
        Folder for ``<dataset>/ledger.csv``, ``<dataset>/ledger_propensity.csv`` (calibration of the additive
        propensity) and the provenance of each. Nothing is written if left out.

    Returns
    -------
    DataFrame
        Long form: ``dataset, labelling, construction, seed, entry, variant, quantity, value``.
        ``attrs["propensity"]`` holds the calibration, ``attrs["provenance"]`` the provenance.

    Raises
    ------
    UnknownNameError, InputError, RatingsError, StudyError
        If settings or data are refused, as in :func:`~cfmtl_lib.experiments.paper.tables.table4`.
    """
    chosen = settings_of(dataset, settings)
    key = ["dataset", "labelling", "construction", "seed"]
    with warnings.catch_warnings():
        # That fits end at the cut-off is what the entry on the stopping rule shows.
        cut = FIT_VARIANTS["count of stalls reset"].max_epochs
        warnings.filterwarnings("ignore", message=rf"OR .*max_epochs={cut} ", category=ConvergenceWarning)
        run = run_studies(
            _entries,
            chosen,
            label="Ledger",
            results_dir=results_dir,
            command=chosen.call("cfmtl_lib.experiments.paper.ledger.ledger"),
            tables={
                "ledger": [*key, "entry", "variant", "quantity", "value"],
                "ledger_propensity": [*key, "bin", "predicted", "true", "n"],
            },
        )
    run.save(results_dir)
    table = run.tables["ledger"]
    table.attrs.update(provenance=run.provenance, propensity=run.tables["ledger_propensity"])
    return table


def _entries(context: StudyContext) -> TableRows:
    study = context.study
    key = context.key | {"seed": study.seed}
    models = context.fitted(["CF-MTL", *NET_METHODS])
    found = [
        *_frozen(context),
        *_loss_weights(context, models["CF-MTL"]),
        *_cash_formula(study, models["CF-MTL"]),
        *_cell_forms(study, models),
        *_fit_variants(context),
        *_labelling(context),
    ]
    nuisances = models["DR-net"].nuisances_
    assert isinstance(nuisances, PairNuisances)
    e_hat = predict_probability(nuisances.propensity_network(), study.test.x)
    e = study.test.propensity
    found += [
        ("propensity", "additive", name, value)
        for name, value in propensity_report(e_hat, e)._asdict().items()
    ]
    bins = [
        key | {"bin": b, "predicted": e_hat[part].mean(), "true": e[part].mean(), "n": len(part)}
        for b, part in enumerate(equal_size_bins(e_hat, 20))
    ]
    return {
        "ledger": [
            key | dict(zip(("entry", "variant", "quantity", "value"), row, strict=True)) for row in found
        ],
        "ledger_propensity": bins,
    }


Found = list[tuple[str, str, str, float]]


def _earned(study: Study, predicted: NDArray[np.float64], scenario: str) -> float:
    return checked_counts(paper_policy(predicted), study, scenario)["reward"]


def _frozen(context: StudyContext) -> Found:
    models = [
        CFMTLv1(frozen=frozen, device=context.device, seed=context.study.seed) for frozen in (False, True)
    ]
    fit_two_stage(models, context.study, context.cache)
    return _rewards("frozen", dict(zip(("fine-tuned", "frozen"), models, strict=True)), context.study)


def _loss_weights(context: StudyContext, published: CFMTL) -> Found:
    equal = CFMTL(weights=CellWeights(1, 1, 1, 1, 1, 1), device=context.device, seed=context.study.seed)
    fit_joint(equal, context.study, context.cache)
    return _rewards("loss weights", {"as published": published, "all equal": equal}, context.study)


def _rewards(entry: str, models: dict[str, CFMTL], study: Study) -> Found:
    return [
        (
            entry,
            variant,
            f"{scenario} reward",
            _earned(study, model.predict_reward(study.test.x, scenario, PAPER.cost), scenario),
        )
        for variant, model in models.items()
        for scenario in SCENARIOS
    ]


def _cash_formula(study: Study, model: CFMTL) -> Found:
    p = model.predict_strata(study.test.x)
    return [
        ("cash formula", variant, "cash reward", _earned(study, predicted, "cash"))
        for variant, predicted in (
            ("Table 1", p @ stratum_rewards("cash", PAPER.cost)),
            ("text", prose_cash_reward(p, PAPER.cost)),
        )
    ]


def _cell_forms(study: Study, models: dict[str, Any]) -> Found:
    moments = {
        (family, name): models[f"{family}-net"].predict_moment(study.test.x, name)
        for family in FAMILIES
        for name in MOMENTS
    }
    found: Found = []
    for family in FAMILIES:
        for variant in CELL_VARIANTS:
            p = cell_variant_strata(moments, family, variant)
            found += [
                (
                    "cells",
                    f"CF-{family}: {variant}",
                    f"{scenario} reward",
                    _earned(study, p @ stratum_rewards(scenario, PAPER.cost), scenario),
                )
                for scenario in SCENARIOS
            ]
    buyers = np.isin(study.test.stratum, (COUPON_BUYER, ALWAYS_BUYER))
    found.append(("used coupons", "truth", "mean", float(buyers.mean())))
    for family in FAMILIES:
        used = {
            "product": moments[family, "collected_treated"] * moments[family, "converted_treated"],
            "joint": moments[family, "collected_and_converted_treated"],
        }
        for form, probability in used.items():
            variant = f"CF-{family}: {form}"
            found += [
                ("used coupons", variant, "mean", float(probability.mean())),
                ("used coupons", variant, "AUC", float(roc_auc_score(buyers, probability))),
            ]
    return found


def _fit_variants(context: StudyContext) -> Found:
    study, found = context.study, []
    for variant, config in FIT_VARIANTS.items():
        nuisances = PairNuisances(
            study.train,
            config=config,
            propensity_clip=PAPER.propensity_clip,
            device=context.device,
            seed=study.seed,
            cache=context.cache,
        )
        model = OR(config=config, device=context.device, seed=study.seed).fit(
            study.train, nuisances=nuisances
        )
        reward = _earned(study, model.predict_reward(study.test.x, "coupon", PAPER.cost), "coupon")
        epochs = sum(history.n_epochs for history in nuisances.histories.values())
        found += [
            ("fit of OR", variant, "coupon reward", reward),
            ("fit of OR", variant, "epochs", float(epochs)),
        ]
    return found


def _labelling(context: StudyContext) -> Found:
    """Measure the fit of the labelling network to its outcomes, and describe the pool of pairs."""
    study, ratings = context.study, context.ratings
    if ratings is None:
        return [
            ("labelling", "NCF", name, value) for name, value in _simulated_labelling(study, context).items()
        ]
    networks = construction_networks(
        ratings, study.construction, study.seed, device=context.device, cache=context.cache
    )
    quality = labelling_quality(predict_probability(networks.labeller, ratings.pairs), ratings.outcome)
    pairs = np.concatenate([study.train.x, study.test.x])
    stratum = np.concatenate([study.train_truth.stratum, study.test.stratum])
    unobserved = pairs[np.isin(stratum, (NEVER_BUYER, NEVER_TAKER))]
    never_rated = ~np.isin(unobserved[:, 1], ratings.item)
    return [
        *(("labelling", "NCF", name, value) for name, value in quality.items()),
        ("unobserved pairs", "items never rated", "share", float(never_rated.mean())),
    ]


def _simulated_labelling(study: Study, context: StudyContext) -> dict[str, float]:
    """Measure the same on a simulation, whose ratings are the pairs with C(1) = 1, their outcome Y(1)."""
    truth = study.train_truth
    collect, convert = POTENTIAL_OUTCOMES[truth.stratum][:, [1, 3]].T
    x, outcome = truth.x[collect == 1], convert[collect == 1]
    device = resolve_device(context.device)
    config = PAPER.construction[study.construction].labelling
    network = new_network(
        AdditiveNetwork,
        study.train.pair_space,
        config,
        generator=derive_generator(study.seed, "ledger labelling", device),
    )
    user, item, target = (torch.tensor(column, device=device) for column in (*x.T, outcome))
    fit_probability(
        network,
        (user, item, target.float()),
        config,
        generator=derive_generator(study.seed, "ledger labelling batches", device),
        label="labelling NCF",
    )
    return labelling_quality(predict_probability(network, x), outcome)

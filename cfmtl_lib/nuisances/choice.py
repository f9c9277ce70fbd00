"""Choice of the nuisances of a log: the paper's networks on pairs, scikit-learn learners on anything else."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from cfmtl_lib.checks import check_count, check_seed, describe
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.nuisances.feature_nuisances import FeatureNuisances
from cfmtl_lib.nuisances.learner_checks import check_classifier, check_regressor
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances


class FittedMoment(Protocol):
    """Fit of one conditional mean."""

    def predict(self, x: Any) -> NDArray[np.float64]:
        """Return the mean at rows of x, shape (n,)."""
        ...


class Nuisances(Protocol):
    """Fits of the moments of one log, made when first asked for."""

    def moment(self, family: str, name: str) -> FittedMoment:
        """Return the fit of one of :data:`~cfmtl_lib.nuisances.moments.MOMENTS` by one family."""
        ...


def nuisances_of(
    log: IncentiveLog | ParquetLog,
    *,
    config: FitConfig,
    outcome: BaseEstimator | None,
    propensity: BaseEstimator | None,
    pseudo_outcome: BaseEstimator | None,
    propensity_clip: tuple[float, float],
    folds: int,
    device: str,
    seed: int,
    progress: bool,
) -> Nuisances:
    """Choose the class that fits the moments of a log.

    Parameters
    ----------
    log : IncentiveLog or ParquetLog
    config, device
        See :class:`~cfmtl_lib.nuisances.pair_nuisances.PairNuisances`.
    outcome, propensity, pseudo_outcome, folds
        See :class:`~cfmtl_lib.nuisances.feature_nuisances.FeatureNuisances`.
    propensity_clip, seed, progress
        See either class.

    Returns
    -------
    PairNuisances or FeatureNuisances

    Raises
    ------
    InputError
        If a log in files comes with a learner, or a setting is out of range.
    """
    folds, seed = check_count(folds, "folds", least=2), check_seed(seed)
    for name, learner, check in (
        ("outcome", outcome, check_classifier),
        ("propensity", propensity, check_classifier),
        ("pseudo_outcome", pseudo_outcome, check_regressor),
    ):
        if learner is not None:
            check(learner, name)
    if log.is_pairs and outcome is None:
        for name, learner in (("propensity", propensity), ("pseudo_outcome", pseudo_outcome)):
            if learner is not None:
                raise InputError(
                    name,
                    expected="none beside the paper's networks, which fit pairs",
                    found=describe(learner),
                    advice="Give outcome= as well, or a log of features.",
                )
        return PairNuisances(
            log,
            config=config,
            propensity_clip=propensity_clip,
            device=device,
            seed=seed,
            progress=progress,
        )
    if isinstance(log, ParquetLog):
        raise InputError(
            "outcome",
            expected="none with a log in files, which trains the paper's networks",
            found=repr(outcome),
            advice="Load the log into memory for a learner of scikit-learn.",
        )
    return FeatureNuisances(
        log,
        outcome=outcome,
        propensity=propensity,
        pseudo_outcome=pseudo_outcome,
        propensity_clip=propensity_clip,
        folds=folds,
        seed=seed,
        progress=progress,
    )

r"""CF-MTL: strata probabilities and propensity learnt together from the six observable cells.

With strata probabilities f(x) and propensity g(x), cell (t, c, y) has probability g(x) or 1 - g(x)
times a sum of strata (:data:`~cfmtl_lib.strata.CELL_MEMBERSHIP`; paper, Section 3.3). The loss adds one
binary cross-entropy a cell, each over all rows: the entire space, not one arm.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.base import StrataEstimator, log_of
from cfmtl_lib.estimators.cfmtl_features import FeatureCells, fit_feature_cells
from cfmtl_lib.logs.encoding import Rows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.feature_networks import FEATURES, FeatureConfig
from cfmtl_lib.models.losses import CellNetwork, CellWeights
from cfmtl_lib.models.pair_networks import AdditiveNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, minimise, new_network
from cfmtl_lib.nuisances.pair_nuisances import training_columns
from cfmtl_lib.policy.rewards import expected_reward
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.strata import STRATA


class CFMTL(StrataEstimator):
    r"""CF-MTL: propensity and strata trained together from the first step.

    On pairs as in the authors' code, their networks and their stopping rule. On features with small networks
    of their own (:mod:`cfmtl_lib.models.feature_networks`), which the paper does not have.

    With :math:`q_k` the probability of cell k and :math:`z_{kn} = 1` where row n lies in it, the loss is

    .. math::
        \sum_k w_k \sum_n \mathrm{BCE}(q_k(x_n), z_{kn}) + \eta \sum_n (g(x_n) - t_n)^2 .

    Parameters
    ----------
    config : FitConfig
        Of the networks of pairs.
    feature_config : FeatureConfig
        Of the networks of features, and of pairs with features.
    weights : CellWeights
        :math:`w_k`; a weight of 0 leaves a term out.
    propensity_weight : float
        :math:`\eta`.
    propensity_floor : float
        Lower bound of g inside the loss.
    device : str or torch.device
        "auto" takes CUDA where there is a CUDA device.
    seed : int
    progress : bool
        Say on stderr how far the fits are.

    Attributes
    ----------
    network_ : CellNetwork or FeatureCells
        Of pairs, or of features.
    schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.base.LogEstimator`.
    histories_ : dict of str to History
        Training curve of each stage.
    """

    network_: CellNetwork | FeatureCells
    histories_: dict[str, History]

    def __init__(
        self,
        *,
        config: FitConfig = PAPER.joint,
        feature_config: FeatureConfig = FEATURES,
        weights: CellWeights = PAPER.joint_weights,
        propensity_weight: float = PAPER.propensity_weight,
        propensity_floor: float = PAPER.joint_propensity_floor,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.config = config
        self.feature_config = feature_config
        self.weights = weights
        self.propensity_weight = propensity_weight
        self.propensity_floor = propensity_floor
        self.device = device
        self.seed = seed
        self.progress = progress

    def fit(self, x: IncentiveLog | ParquetLog | Rows, y: ArrayLike | None = None) -> Self:
        """Fit strata and propensity.

        Parameters
        ----------
        x : IncentiveLog, ParquetLog, or features
        y : array_like of shape (n, 3), 0/1, optional
            Incentive given, collected, converted, beside features; see
            :meth:`~cfmtl_lib.logs.incentive_log.IncentiveLog.of`.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If x and y make no log.
        InputError
            If a weight is negative, all are 0, or the propensity floor lies outside [0, 1).
        """
        self._check()
        log = log_of(x, y)
        device = resolve_device(self.device)
        if log.is_pairs:
            strata = self._additive(log, self.config, "strata", device, len(STRATA))
            propensity = self._additive(log, self.config, "propensity", device)
            return self._fit_cells(log, self._cells(strata, propensity), {}, device)
        assert isinstance(log, IncentiveLog)  # logs in files are of pairs
        return self._fit_features(log, device)

    def _fit_features(self, log: IncentiveLog, device: torch.device, **stages: Any) -> Self:
        self.remember_input(log)
        self.network_, self.histories_ = fit_feature_cells(
            log,
            config=self.feature_config,
            seed=self.seed,
            device=device,
            name=type(self).__name__,
            progress=self.progress,
            weights=self.weights,
            propensity_floor=self.propensity_floor,
            propensity_weight=self.propensity_weight,
            **stages,
        )
        return self

    def _fit_cells(
        self,
        log: IncentiveLog | ParquetLog,
        network: CellNetwork,
        earlier: dict[str, History],
        device: torch.device,
    ) -> Self:
        last = minimise(
            network,
            network.loss,
            training_columns(log, lambda rows: rows.cell, device, torch.int8),
            self.config,
            generator=derive_generator(self.seed, f"{type(self).__name__} batches", device),
            label=f"{type(self).__name__} cells",
            progress=self.progress,
        )
        self.remember_input(log)
        self.histories_ = {**earlier, "cells": last}
        self.network_ = network
        return self

    def _check(self) -> None:
        weights = self.weights.in_cell_order()
        if min(weights) < 0 or max(weights) == 0:
            raise InputError("weights", expected="weights >= 0, not all 0", found=repr(self.weights))
        if not 0 <= self.propensity_floor < 1:
            raise InputError(
                "propensity_floor", expected="a number in [0, 1)", found=repr(self.propensity_floor)
            )
        if not self.propensity_weight >= 0:
            raise InputError(
                "propensity_weight", expected="a number >= 0", found=repr(self.propensity_weight)
            )

    def _additive(
        self,
        log: IncentiveLog | ParquetLog,
        config: FitConfig,
        purpose: str,
        device: torch.device,
        n_outputs: int = 1,
    ) -> AdditiveNetwork:
        return new_network(
            AdditiveNetwork,
            log.pair_space,
            config,
            generator=derive_generator(self.seed, f"{type(self).__name__} {purpose}", device),
            n_outputs=n_outputs,
        )

    def _cells(self, strata: AdditiveNetwork, propensity: AdditiveNetwork) -> CellNetwork:
        """The network before the cell losses are minimised."""
        return CellNetwork(
            strata=strata,
            propensity=propensity,
            weights=self.weights,
            propensity_floor=self.propensity_floor,
            propensity_weight=self.propensity_weight,
        )

    def predict_strata(self, x: IncentiveLog | Rows) -> NDArray[np.float64]:
        """Strata probabilities at x: shape (n, 5), float64, in [0, 1], rows sum to 1."""
        return self._predict("strata", x)

    def predict_propensity(self, x: IncentiveLog | Rows) -> NDArray[np.float64]:
        """Propensity at x before the floor, shape (n,)."""
        return self._predict("propensity", x)

    def _predict(self, part: str, x: IncentiveLog | Rows) -> NDArray[np.float64]:
        check_is_fitted(self, "network_")
        matrix = self.schema_.matrix(x)
        if isinstance(self.network_, FeatureCells):
            return self.network_.predict(part, matrix)
        return predict_probability(self.network_.pair_network(part), matrix)

    def predict_reward(
        self, x: IncentiveLog | Rows, scenario: str = "coupon", cost: float | ArrayLike = PAPER.cost
    ) -> NDArray[np.float64]:
        """See :meth:`~cfmtl_lib.estimators.base.LogEstimator.predict_reward`."""
        return expected_reward(self.predict_strata(x), scenario, cost)

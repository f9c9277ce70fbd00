r"""CF-MTL: strata probabilities and propensity learnt together from the six observable cells.

With strata probabilities f(x) and propensity g(x), cell (t, c, y) has probability g(x) or 1 - g(x)
times a sum of strata (:data:`~cfmtl_lib.strata.CELL_MEMBERSHIP`; paper, Section 3.3). The loss adds one
binary cross-entropy a cell, each over all rows: the entire space, not one arm.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from cfmtl_lib.cells import CellNetwork
from cfmtl_lib.devices import resolve_device
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs import IncentiveLog
from cfmtl_lib.networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.nuisances import columns_on_device
from cfmtl_lib.policy import expected_reward
from cfmtl_lib.protocol import PAPER, CellWeights
from cfmtl_lib.strata import STRATA
from cfmtl_lib.training import FitConfig, History, derive_generator, fit_probability, minimise


class CFMTL(BaseEstimator):
    r"""CF-MTL as in the authors' code: propensity and strata trained together from the first step.

    With :math:`q_k` the probability of cell k and :math:`z_{kn} = 1` where row n lies in it, the loss is

    .. math::
        \sum_k w_k \sum_n \mathrm{BCE}(q_k(x_n), z_{kn}) + \eta \sum_n (g(x_n) - t_n)^2 .

    Parameters
    ----------
    config : FitConfig
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
    network_ : CellNetwork
    histories_ : dict of str to History
        Training curve of each stage.
    """

    def __init__(
        self,
        *,
        config: FitConfig = PAPER.joint,
        weights: CellWeights = PAPER.joint_weights,
        propensity_weight: float = PAPER.propensity_weight,
        propensity_floor: float = PAPER.joint_propensity_floor,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.config = config
        self.weights = weights
        self.propensity_weight = propensity_weight
        self.propensity_floor = propensity_floor
        self.device = device
        self.seed = seed
        self.progress = progress

    def fit(self, log: IncentiveLog) -> Self:
        """Fit strata and propensity.

        Parameters
        ----------
        log : IncentiveLog
            Of pairs.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If the log holds features.
        InputError
            If a weight is negative, all are 0, or the propensity floor lies outside [0, 1).
        """
        self._check()
        device = resolve_device(self.device)
        return self._fit_cells(log, self._start(log, device), {}, device)

    def _fit_cells(
        self,
        log: IncentiveLog,
        network: CellNetwork,
        earlier: dict[str, History],
        device: torch.device,
    ) -> Self:
        last = minimise(
            network,
            network.loss,
            (*columns_on_device(log, device), torch.tensor(log.cell, device=device)),
            self.config,
            generator=derive_generator(self.seed, f"{type(self).__name__} batches", device),
            label=f"{type(self).__name__} cells",
            progress=self.progress,
        )
        self.histories_: dict[str, History] = {**earlier, "cells": last}
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
        self, log: IncentiveLog, config: FitConfig, purpose: str, device: torch.device, n_outputs: int = 1
    ) -> AdditiveNetwork:
        return AdditiveNetwork(
            *log.pair_space,
            config.embedding_k,
            n_outputs,
            generator=derive_generator(self.seed, f"{type(self).__name__} {purpose}", device),
            embedding_sd=config.embedding_sd,
        )

    def _start(self, log: IncentiveLog, device: torch.device) -> CellNetwork:
        """The network before the cell losses are minimised."""
        return CellNetwork(
            strata=self._additive(log, self.config, "strata", device, len(STRATA)),
            propensity=self._additive(log, self.config, "propensity", device),
            weights=self.weights,
            propensity_floor=self.propensity_floor,
            propensity_weight=self.propensity_weight,
        )

    def predict_strata(self, x: ArrayLike) -> NDArray[np.float64]:
        """Strata probabilities at pairs x: shape (n, 5), float64, in [0, 1], rows sum to 1."""
        check_is_fitted(self, "network_")
        return predict_probability(self.network_.strata, x)

    def predict_propensity(self, x: ArrayLike) -> NDArray[np.float64]:
        """Propensity at pairs x before the floor, shape (n,)."""
        check_is_fitted(self, "network_")
        return predict_probability(self.network_.propensity, x)

    def predict_reward(
        self, x: ArrayLike, scenario: str = "coupon", cost: float = PAPER.cost
    ) -> NDArray[np.float64]:
        """Expected reward of treating each pair, as :func:`~cfmtl_lib.policy.expected_reward`; shape (n,)."""
        return expected_reward(self.predict_strata(x), scenario, cost)


@dataclass(frozen=True, eq=False)
class Pretrained:
    """First stage of CF-MTL-v1, made by :meth:`CFMTLv1.pretrain`.

    Attributes
    ----------
    log : IncentiveLog
    settings : dict
        Of the estimator that made it, as far as they matter here.
    propensity : AdditiveNetwork
        NCF of T.
    outcome : FactorizationNetwork
        MF of Y.
    histories : dict of str to History
    """

    log: IncentiveLog
    settings: dict[str, object]
    propensity: AdditiveNetwork
    outcome: FactorizationNetwork
    histories: dict[str, History]


class CFMTLv1(CFMTL):
    """CF-MTL-v1, the reproduction report's change: pre-train, then fine-tune everything on the cells.

    Propensity NCF and outcome MF are fitted first, each by itself. A new strata head is put on the
    MF's embeddings, and all parameters are trained on the six cell losses, without a propensity loss. The
    report's prose suggests that the first two models stay as they are; in its listing they are
    trained on. ``frozen=True`` holds them still.

    Parameters
    ----------
    config, weights, propensity_floor, device, seed, progress
        As in :class:`CFMTL`.
    pretraining_propensity, pretraining_outcome : FitConfig
        Of the two first fits.
    frozen : bool
        Train only the strata head in the second stage.
    """

    def __init__(
        self,
        *,
        config: FitConfig = PAPER.joint,
        weights: CellWeights = PAPER.two_stage_weights,
        propensity_floor: float = PAPER.joint_propensity_floor,
        pretraining_propensity: FitConfig = PAPER.pretraining_propensity,
        pretraining_outcome: FitConfig = PAPER.pretraining_outcome,
        frozen: bool = False,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(
            config=config,
            weights=weights,
            propensity_weight=0.0,
            propensity_floor=propensity_floor,
            device=device,
            seed=seed,
            progress=progress,
        )
        self.pretraining_propensity = pretraining_propensity
        self.pretraining_outcome = pretraining_outcome
        self.frozen = frozen

    def _check(self) -> None:
        super()._check()
        if self.pretraining_outcome.embedding_k != self.config.embedding_k:
            raise InputError(
                "pretraining_outcome.embedding_k",
                expected=f"config.embedding_k = {self.config.embedding_k}, as its embeddings are used on",
                found=str(self.pretraining_outcome.embedding_k),
            )

    def fit(self, log: IncentiveLog, pretrained: Pretrained | None = None) -> Self:
        """Pre-train, then fit strata and propensity.

        Parameters
        ----------
        log : IncentiveLog
            Of pairs.
        pretrained : Pretrained, optional
            From :meth:`pretrain` of an estimator with the same settings on the same log. Loss weights and
            ``frozen`` may differ, as they matter only afterwards.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If the log holds features.
        InputError
            As :meth:`CFMTL.fit`; or if embeddings differ in length, or ``pretrained`` belongs to another log
            or other settings.
        """
        if pretrained is not None:
            for what, found, expected in (
                ("of this log", pretrained.log is log, True),
                ("with the settings of this estimator", pretrained.settings, self._pretraining_settings()),
            ):
                if found != expected:
                    raise InputError(
                        "pretrained",
                        expected=f"pre-training {what}",
                        found="another one",
                        advice="Call pretrain(log) of this estimator.",
                    )
        self._check()
        first = self.pretrain(log) if pretrained is None else pretrained
        device = resolve_device(self.device)
        network = self._start(log, device)
        # Trained on below, hence copies: others may start from the same first stage.
        network.propensity = copy.deepcopy(first.propensity)
        network.strata.user = nn.Parameter(first.outcome.user.detach().clone())
        network.strata.item = nn.Parameter(first.outcome.item.detach().clone())
        if self.frozen:
            for fixed in (network.strata.user, network.strata.item, *network.propensity.parameters()):
                fixed.requires_grad_(False)
        return self._fit_cells(log, network, first.histories, device)

    def pretrain(self, log: IncentiveLog) -> Pretrained:
        """The first stage alone, for several second stages to start from.

        Returns
        -------
        Pretrained
        """
        self._check()
        device = resolve_device(self.device)
        user, item = columns_on_device(log, device)
        propensity = self._additive(log, self.config, "propensity", device)
        outcome = FactorizationNetwork(
            *log.pair_space,
            self.config.embedding_k,
            generator=derive_generator(self.seed, "CFMTLv1 outcome", device),
            embedding_sd=self.pretraining_outcome.embedding_sd,
        )
        histories = {
            stage: fit_probability(
                fitted,
                user,
                item,
                torch.tensor(target, dtype=torch.float32, device=device),
                config,
                generator=derive_generator(self.seed, f"CFMTLv1 {stage} batches", device),
                label=f"CFMTLv1 {stage}",
                progress=self.progress,
            )
            for stage, fitted, target, config in (
                ("propensity", propensity, log.t, self.pretraining_propensity),
                ("outcome", outcome, log.y, self.pretraining_outcome),
            )
        }
        return Pretrained(log, self._pretraining_settings(), propensity, outcome, histories)

    def _pretraining_settings(self) -> dict[str, object]:
        given = self.get_params(deep=False)
        return {
            "embeddings": (self.config.embedding_k, self.config.embedding_sd),
            "device": str(resolve_device(self.device)),
        } | {name: given[name] for name in ("seed", "pretraining_propensity", "pretraining_outcome")}

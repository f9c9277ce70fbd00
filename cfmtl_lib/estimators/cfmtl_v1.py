"""CF-MTL-v1, the two-stage form of CF-MTL in the reproduction report."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Self

from numpy.typing import ArrayLike
from torch import nn

from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.base import log_of
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.logs.encoding import Rows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.feature_networks import FEATURES, FeatureConfig
from cfmtl_lib.models.losses import CellWeights
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.models.training import derive_generator, fit_probability, new_network, parametrised
from cfmtl_lib.nuisances.pair_nuisances import training_columns
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.strata import STRATA


@dataclass(frozen=True, eq=False)
class Pretrained:
    """First stage of CF-MTL-v1, made by :meth:`CFMTLv1.pretrain`.

    Attributes
    ----------
    log : IncentiveLog or ParquetLog
    settings : dict
        Of the estimator that made it, as far as they matter here.
    propensity : AdditiveNetwork
        NCF of T.
    outcome : FactorizationNetwork
        MF of Y.
    histories : dict of str to History
    """

    log: IncentiveLog | ParquetLog
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
    config, feature_config, weights, propensity_floor, device, seed, progress
        As in :class:`~cfmtl_lib.estimators.cfmtl.CFMTL`.
    pretraining_propensity, pretraining_outcome : FitConfig
        Of the two first fits on pairs; of those on features only the loss is taken.
    frozen : bool
        Train only the strata head in the second stage.
    """

    def __init__(
        self,
        *,
        config: FitConfig = PAPER.joint,
        feature_config: FeatureConfig = FEATURES,
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
            feature_config=feature_config,
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
        if self.frozen and self.config.parametrisation == "additive":
            raise InputError(
                "frozen",
                expected="False with config.parametrisation='additive', which leaves no embeddings",
                found="True",
            )

    def fit(
        self,
        x: IncentiveLog | ParquetLog | Rows,
        y: ArrayLike | None = None,
        *,
        pretrained: Pretrained | None = None,
    ) -> Self:
        """Pre-train, then fit strata and propensity.

        Parameters
        ----------
        x, y
            As in :meth:`cfmtl_lib.estimators.cfmtl.CFMTL.fit`.
        pretrained : Pretrained, optional
            From :meth:`pretrain` of an estimator with the same settings on the same log of pairs. Loss
            weights and ``frozen`` may differ, as they matter only afterwards.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If x and y make no log.
        InputError
            As :meth:`cfmtl_lib.estimators.cfmtl.CFMTL.fit`; or if embeddings differ in length, or
            ``pretrained`` belongs
            to another log or other settings.
        """
        log = log_of(x, y)
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
        device = resolve_device(self.device)
        if not log.is_pairs:
            losses = {
                "propensity": self.pretraining_propensity.loss,
                "outcome": self.pretraining_outcome.loss,
            }
            assert isinstance(log, IncentiveLog)  # logs in files are of pairs
            return self._fit_features(log, device, pretraining_losses=losses, frozen=self.frozen)
        first = self.pretrain(log) if pretrained is None else pretrained
        on_embeddings = replace(self.config, parametrisation="embeddings")
        strata = self._additive(log, on_embeddings, "strata", device, len(STRATA))
        # Trained on below, hence copies: others may start from the same first stage.
        strata.user = nn.Parameter(first.outcome.user.detach().clone())
        strata.item = nn.Parameter(first.outcome.item.detach().clone())
        propensity = copy.deepcopy(first.propensity)
        if self.frozen:
            for fixed in (strata.user, strata.item, *propensity.parameters()):
                fixed.requires_grad_(False)
        network = self._cells(parametrised(strata, self.config), parametrised(propensity, self.config))
        return self._fit_cells(log, network, first.histories, device)

    def pretrain(self, log: IncentiveLog | ParquetLog) -> Pretrained:
        """The first stage on pairs alone, for several second stages to start from.

        Returns
        -------
        Pretrained

        Raises
        ------
        LogError
            If the log holds features.
        """
        self._check()
        device = resolve_device(self.device)
        propensity = self._additive(log, self.pretraining_propensity, "propensity", device)
        outcome = new_network(
            FactorizationNetwork,
            log.pair_space,
            self.pretraining_outcome,
            generator=derive_generator(self.seed, "CFMTLv1 outcome", device),
        )
        histories = {
            stage: fit_probability(
                fitted,
                training_columns(log, target, device),
                config,
                generator=derive_generator(self.seed, f"CFMTLv1 {stage} batches", device),
                label=f"CFMTLv1 {stage}",
                progress=self.progress,
            )
            for stage, fitted, target, config in (
                ("propensity", propensity, lambda rows: rows.t, self.pretraining_propensity),
                ("outcome", outcome, lambda rows: rows.y, self.pretraining_outcome),
            )
        }
        return Pretrained(log, self._pretraining_settings(), propensity, outcome, histories)

    def _pretraining_settings(self) -> dict[str, object]:
        given = self.get_params(deep=False)
        return {
            "embeddings": (self.config.embedding_k, self.config.embedding_sd),
            "device": str(resolve_device(self.device)),
        } | {name: given[name] for name in ("seed", "pretraining_propensity", "pretraining_outcome")}

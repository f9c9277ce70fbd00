"""CF-MTL on user-item pairs: the paper's networks and stopping rule, in one stage or in two."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.cells.backend import CellBackend, CellTask, FirstStage
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.losses import CellNetwork
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.models.training import derive_generator, fit_probability, minimise, new_network, parametrised
from cfmtl_lib.nuisances.pair_nuisances import training_columns
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.strata import STRATA

Log = IncentiveLog | ParquetLog


@dataclass(frozen=True, eq=False)
class Pretrained:
    """First stage of CF-MTL-v1, made by :meth:`~cfmtl_lib.estimators.cfmtl_v1.CFMTLv1.pretrain`.

    Attributes
    ----------
    log : IncentiveLog or ParquetLog
    settings : dict
        Settings of the estimator that the first stage depends on.
    propensity : AdditiveNetwork
        NCF of T.
    outcome : FactorizationNetwork
        MF of Y.
    histories : dict of str to History
    """

    log: Log
    settings: dict[str, object]
    propensity: AdditiveNetwork
    outcome: FactorizationNetwork
    histories: dict[str, History]


class PairCells(CellBackend):
    """Backend that fits the paper's networks to a log of pairs, in memory or in files."""

    config_type = FitConfig
    x_kind = "pairs"
    config: FitConfig

    @classmethod
    def takes(cls, log: Log) -> bool:
        """Return whether the log holds pairs."""
        return log.is_pairs

    @classmethod
    def default_config(cls) -> FitConfig:
        """Return the published settings of CF-MTL."""
        return PAPER.joint

    def fit(
        self, log: Log, task: CellTask, first_stage: FirstStage | None = None
    ) -> tuple[CellNetwork, dict[str, History]]:
        """See :meth:`~cfmtl_lib.estimators.cells.backend.CellBackend.fit`."""
        earlier: dict[str, History] = {}
        if first_stage is None:
            strata = _additive(log, self.config, task, "strata", len(STRATA))
            propensity = _additive(log, self.config, task, "propensity")
            network = task.network(strata, propensity, PAPER.joint_propensity_floor)
        else:
            network, earlier = self._on_first_stage(log, task, first_stage)
        history = minimise(
            network,
            network.loss,
            training_columns(log, lambda rows: rows.cell, task.device, torch.int8),
            self.config,
            generator=derive_generator(task.seed, f"{task.name} batches", task.device),
            label=f"{task.name} cells",
            progress=task.progress,
        )
        return network, {**earlier, "cells": history}

    def _on_first_stage(
        self, log: Log, task: CellTask, stage: FirstStage
    ) -> tuple[CellNetwork, dict[str, History]]:
        """Put a new strata head on the embeddings of the outcome's network."""
        self.check(stage)
        first = self.pretrain(log, task, stage) if stage.done is None else stage.done
        on_embeddings = replace(self.config, parametrisation="embeddings")
        strata = _additive(log, on_embeddings, task, "strata", len(STRATA))
        # Trained on below, hence copies: others may start from the same first stage.
        strata.user = nn.Parameter(first.outcome.user.detach().clone())
        strata.item = nn.Parameter(first.outcome.item.detach().clone())
        propensity = copy.deepcopy(first.propensity)
        if stage.frozen:
            for fixed in (strata.user, strata.item, *propensity.parameters()):
                fixed.requires_grad_(False)
        parts = (parametrised(strata, self.config), parametrised(propensity, self.config))
        return task.network(*parts, PAPER.joint_propensity_floor), first.histories

    def check(self, stage: FirstStage) -> None:
        """Refuse a first stage whose embeddings the second stage cannot use.

        Raises
        ------
        InputError
            If embeddings differ in length, or are frozen under the additive parametrisation.
        """
        if stage.outcome.embedding_k != self.config.embedding_k:
            raise InputError(
                "pretraining_outcome.embedding_k",
                expected=f"config.embedding_k = {self.config.embedding_k}, as its embeddings are used on",
                found=str(stage.outcome.embedding_k),
            )
        if stage.frozen and self.config.parametrisation == "additive":
            raise InputError(
                "frozen",
                expected="False with config.parametrisation='additive', which leaves no embeddings",
                found="True",
            )

    def pretrain(self, log: Log, task: CellTask, stage: FirstStage) -> Pretrained:
        """Fit the propensity by NCF and the outcome by matrix factorisation, each by itself."""
        self.check(stage)
        propensity = _additive(log, stage.propensity, task, "propensity")
        outcome = new_network(
            FactorizationNetwork,
            log.pair_space,
            stage.outcome,
            generator=derive_generator(task.seed, "CFMTLv1 outcome", task.device),
        )
        histories = {
            name: fit_probability(
                fitted,
                training_columns(log, target, task.device),
                config,
                generator=derive_generator(task.seed, f"CFMTLv1 {name} batches", task.device),
                label=f"CFMTLv1 {name}",
                progress=task.progress,
            )
            for name, fitted, target, config in (
                ("propensity", propensity, lambda rows: rows.t, stage.propensity),
                ("outcome", outcome, lambda rows: rows.y, stage.outcome),
            )
        }
        return Pretrained(log, self.first_stage_settings(task, stage), propensity, outcome, histories)

    def first_stage_settings(self, task: CellTask, stage: FirstStage) -> dict[str, object]:
        """Return all settings that the first stage depends on."""
        return {
            "embeddings": (self.config.embedding_k, self.config.embedding_sd),
            "device": str(task.device),
            "seed": task.seed,
            "pretraining_propensity": stage.propensity,
            "pretraining_outcome": stage.outcome,
        }


def _additive(log: Log, config: FitConfig, task: CellTask, purpose: str, n_outputs: int = 1) -> Any:
    return new_network(
        AdditiveNetwork,
        log.pair_space,
        config,
        generator=derive_generator(task.seed, f"{task.name} {purpose}", task.device),
        n_outputs=n_outputs,
    )

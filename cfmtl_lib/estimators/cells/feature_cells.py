"""CF-MTL on features: an average of networks trained on the six cells with early stopping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.cells.backend import CellBackend, CellTask, FirstStage, held_out_rows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import History
from cfmtl_lib.models.feature_networks import (
    FeatureConfig,
    FeatureNetwork,
    FeatureScaler,
    feature_columns,
    predict_features,
)
from cfmtl_lib.models.losses import CellNetwork
from cfmtl_lib.models.training import derive_generator, fit_probability, minimise
from cfmtl_lib.runtime.registry import storable
from cfmtl_lib.runtime.threads import one_torch_thread
from cfmtl_lib.strata import STRATA

PROPENSITY_FLOOR = 0.0
"""Lower bound of g inside the loss, if none is given. The paper's, for pairs, hides rows of features that are
seldom treated."""


@storable
class FeatureCells(nn.Module):
    """Several cell networks on one scaler of features.

    Parameters
    ----------
    scaler : FeatureScaler
    networks : sequence of CellNetwork
    """

    def __init__(self, scaler: FeatureScaler, networks: Sequence[CellNetwork]) -> None:
        super().__init__()
        self.scaler = scaler
        self.networks = nn.ModuleList(networks)

    def predict(self, part: str, x: NDArray) -> NDArray[np.float64]:
        """Average the probabilities of "strata", (n, 5), or of the "propensity", (n,), over the networks."""
        return predict_features([getattr(network, part) for network in self.networks], self.scaler, x)

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        return {"scaler": self.scaler, "networks": tuple(self.networks)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        scaler, networks = parts["scaler"], parts["networks"]
        if not isinstance(scaler, FeatureScaler) or not networks:
            raise InputError("networks", expected="some, and a scaler", found=f"{len(networks)}")
        for network in networks:
            of_x = network.strata if isinstance(network, CellNetwork) else None
            sizes = (of_x.n_numbers, of_x.levels) if isinstance(of_x, FeatureNetwork) else None
            if sizes != (scaler.n_numbers, scaler.levels):
                raise InputError("networks", expected="networks of what the scaler gives", found="others")
        return cls(scaler, networks)


class FeatureNetworks(CellBackend):
    """Backend that fits several small networks to a log of features and averages them."""

    config_type = FeatureConfig
    x_kind = "features"
    config: FeatureConfig

    @classmethod
    def takes(cls, log: IncentiveLog | ParquetLog) -> bool:
        """Return whether the log holds features, or pairs with features."""
        return not log.is_pairs

    @classmethod
    def default_config(cls) -> FeatureConfig:
        """Return the default settings: two hidden layers of 64 units, four networks."""
        return FeatureConfig()

    @one_torch_thread()  # steps this small gain nothing from two, and lose much where others compute
    def fit(
        self, log: IncentiveLog, task: CellTask, first_stage: FirstStage | None = None
    ) -> tuple[FeatureCells, dict[str, History]]:
        """See :meth:`~cfmtl_lib.estimators.cells.backend.CellBackend.fit`."""
        scaler = FeatureScaler.learn(log)
        histories: dict[str, History] = {}
        fit_one = partial(self._fit_one, log, task, first_stage, scaler, histories)
        return FeatureCells(scaler, [fit_one(k) for k in range(self.config.n_networks)]), histories

    def _fit_one(
        self,
        log: IncentiveLog,
        task: CellTask,
        first_stage: FirstStage | None,
        scaler: FeatureScaler,
        histories: dict[str, History],
        k: int,
    ) -> CellNetwork:
        config, device = self.config, task.device
        inputs = feature_columns(scaler, log.x, device)
        held_out = held_out_rows(log, config.fit.validation_share, task.seed, k)

        def make(purpose: str, n_outputs: int = 1) -> FeatureNetwork:
            generator = derive_generator(task.seed, f"{task.name} {purpose} {k}", device)
            sizes = (scaler.n_numbers, scaler.levels, n_outputs)
            return FeatureNetwork(*sizes, config=config, generator=generator)

        strata, propensity = make("strata", len(STRATA)), make("propensity")
        if first_stage is not None:
            outcome = make("outcome")
            for stage, network, target, of_pairs in (
                ("propensity", propensity, log.t, first_stage.propensity),
                ("outcome", outcome, log.y, first_stage.outcome),
            ):
                histories[f"{stage} {k}"] = fit_probability(
                    network,
                    (*inputs, torch.tensor(target, dtype=torch.float32, device=device)),
                    replace(config.fit, loss=of_pairs.loss),
                    generator=derive_generator(task.seed, f"{task.name} {stage} batches {k}", device),
                    label=f"{task.name} {stage} {k + 1} of {config.n_networks}",
                    progress=task.progress,
                    held_out=held_out,
                )
            strata.take_body(outcome)
            if first_stage.frozen:
                for fixed in (*strata.body(), *propensity.parameters()):
                    fixed.requires_grad_(False)
        cells = task.network(strata, propensity, PROPENSITY_FLOOR)
        histories[f"cells {k}"] = minimise(
            cells,
            cells.loss,
            (*inputs, torch.tensor(log.cell, device=device)),
            config.fit,
            generator=derive_generator(task.seed, f"{task.name} batches {k}", device),
            label=f"{task.name} cells {k + 1} of {config.n_networks}",
            progress=task.progress,
            held_out=held_out,
        )
        return cells

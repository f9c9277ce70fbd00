"""CF-MTL on features: networks trained on the six cells, stopped on held-out rows, and averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.models.config import History
from cfmtl_lib.models.feature_networks import (
    FeatureConfig,
    FeatureNetwork,
    FeatureScaler,
    feature_columns,
    predict_features,
)
from cfmtl_lib.models.losses import CellNetwork, CellWeights
from cfmtl_lib.models.training import derive_generator, fit_probability, minimise
from cfmtl_lib.runtime.threads import one_torch_thread
from cfmtl_lib.strata import STRATA


class FeatureCells(nn.Module):
    """Several cell networks on one scaler of features.

    Parameters
    ----------
    scaler : FeatureScaler
    networks : list of CellNetwork
    """

    def __init__(self, scaler: FeatureScaler, networks: list[CellNetwork]) -> None:
        super().__init__()
        self.scaler = scaler
        self.networks = nn.ModuleList(networks)

    def predict(self, part: str, x: NDArray) -> NDArray[np.float64]:
        """Mean over the networks of the probabilities of "strata", (n, 5), or of the "propensity", (n,)."""
        return predict_features([getattr(network, part) for network in self.networks], self.scaler, x)


@one_torch_thread()  # steps this small gain nothing from two, and lose much where others compute
def fit_feature_cells(
    log: IncentiveLog,
    *,
    config: FeatureConfig,
    seed: int,
    device: torch.device,
    name: str,
    progress: bool,
    weights: CellWeights,
    propensity_floor: float,
    propensity_weight: float,
    pretraining_losses: Mapping[str, str] | None = None,
    frozen: bool = False,
) -> tuple[FeatureCells, dict[str, History]]:
    """Fit the networks of CF-MTL, or with ``pretraining_losses`` those of CF-MTL-v1, to a log of features.

    Parameters
    ----------
    log : IncentiveLog
    config : FeatureConfig
    seed : int
    device : torch.device
    name : str
        In messages, and in what random numbers are drawn from.
    progress : bool
    weights, propensity_floor, propensity_weight
        Of the loss, see :class:`~cfmtl_lib.models.losses.CellNetwork`.
    pretraining_losses : mapping, optional
        Losses of the first stage: of T under "propensity", of Y under "outcome".
    frozen : bool
        Train only the head of the strata in the second stage.

    Returns
    -------
    FeatureCells, dict of str to History
    """
    scaler = FeatureScaler.learn(log)
    inputs = feature_columns(scaler, log.x, device)
    cell = torch.tensor(log.cell, device=device)
    histories: dict[str, History] = {}
    networks = []
    for k in range(config.n_networks):

        def make(purpose: str, n_outputs: int = 1, k: int = k) -> FeatureNetwork:
            generator = derive_generator(seed, f"{name} {purpose} {k}", device)
            return FeatureNetwork(
                scaler.n_numbers, scaler.levels, n_outputs, config=config, generator=generator
            )

        held_out = held_out_rows(log, config.fit.validation_share, seed, k)
        strata, propensity = make("strata", len(STRATA)), make("propensity")
        if pretraining_losses is not None:
            outcome = make("outcome")
            for stage, network, target in (("propensity", propensity, log.t), ("outcome", outcome, log.y)):
                histories[f"{stage} {k}"] = fit_probability(
                    network,
                    (*inputs, torch.tensor(target, dtype=torch.float32, device=device)),
                    replace(config.fit, loss=pretraining_losses[stage]),
                    generator=derive_generator(seed, f"{name} {stage} batches {k}", device),
                    label=f"{name} {stage} {k + 1} of {config.n_networks}",
                    progress=progress,
                    held_out=held_out,
                )
            strata.take_body(outcome)
            if frozen:
                for fixed in (*strata.body(), *propensity.parameters()):
                    fixed.requires_grad_(False)
        cells = CellNetwork(
            strata,
            propensity,
            weights=weights,
            propensity_floor=propensity_floor,
            propensity_weight=propensity_weight,
        )
        histories[f"cells {k}"] = minimise(
            cells,
            cells.loss,
            (*inputs, cell),
            config.fit,
            generator=derive_generator(seed, f"{name} batches {k}", device),
            label=f"{name} cells {k + 1} of {config.n_networks}",
            progress=progress,
            held_out=held_out,
        )
        networks.append(cells)
    return FeatureCells(scaler, networks), histories


def held_out_rows(log: IncentiveLog, share: float, seed: int, network: int) -> NDArray[np.bool_] | None:
    """Rows that a network is stopped on, whole clusters where the log has them; None without any."""
    if share == 0:
        return None
    together = np.arange(len(log)) if log.cluster is None else log.cluster
    names, member = np.unique(together, return_inverse=True)
    drawn = np.random.default_rng([seed, network]).permutation(len(names)) < max(1, round(share * len(names)))
    return drawn[member]

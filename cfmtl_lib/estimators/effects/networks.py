r"""What the neural learners of effects share: their networks, one training loop, and the average effect.

A trunk computes a representation of x. Heads on it give the means of the outcomes in each arm, by
cross-entropy: Y, CY and C under treatment, Y without. The learners differ in what they add to this loss.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfmtl_lib.checks import check_count, describe
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.effects.base import CATE, EffectEstimator
from cfmtl_lib.estimators.head_networks import HeadModel, HeadNetwork, cross_entropy, feature_trunk
from cfmtl_lib.estimators.network_fits import CellColumns, NetworkTask, default_feature_config, fit_networks
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.models.config import History
from cfmtl_lib.models.feature_networks import FeatureConfig, FeatureScaler, feature_columns
from cfmtl_lib.runtime.devices import resolve_device

HEADS = ("converted_treated", "collected_and_converted_treated", "collected_treated", "converted_untreated")
"""First heads of every network, by the names of ``MOMENTS``; further ones belong to a learner."""


class Batch(NamedTuple):
    """One batch in training, with what the network makes of it.

    Attributes
    ----------
    network : HeadNetwork
    representation : Tensor of shape (n, k)
    logits : Tensor of shape (n_heads, n)
        Logits; the first four are those of :data:`HEADS`.
    t, c, y : Tensor of shape (n,), 0 or 1
        Incentive given, collected, converted.
    more : tuple of Tensor, each of shape (n,)
        Further columns of the learner.
    """

    network: HeadNetwork
    representation: Tensor
    logits: Tensor
    t: Tensor
    c: Tensor
    y: Tensor
    more: tuple[Tensor, ...] = ()


def factual_losses(batch: Batch) -> Tensor:
    """Compute the cross-entropy of what each row shows in its own arm, summed over heads; shape (n,)."""
    _, _, logits, t, c, y, _ = batch
    treated = cross_entropy(logits[0], y) + cross_entropy(logits[1], c * y) + cross_entropy(logits[2], c)
    return t * treated + (1 - t) * cross_entropy(logits[3], y)


class NetworkEffects(EffectEstimator):
    """Base class of the neural learners of effects; a subclass writes :meth:`training_loss`.

    Early stopping watches the factual loss of held-out rows (:func:`factual_losses`), for every learner.

    Parameters
    ----------
    config : FeatureConfig, optional
        Settings of the networks and of their fit; those of
        :func:`~cfmtl_lib.estimators.network_fits.default_feature_config` if left out.
    width : int
        Units of the hidden layer of each head; the representation has twice as many.
    device : str or torch.device
        Device of the networks. "auto" takes CUDA where there is a CUDA device.
    seed : int
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    network_ : HeadModel
        Fitted networks.
    histories_ : dict of str to History
        Training curve of each network.
    input_, schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.effects.base.EffectEstimator`.
    """

    network_: HeadModel
    histories_: dict[str, History]

    predicts_arms = True
    n_heads: ClassVar[int] = len(HEADS)
    network_type: ClassVar[type[HeadNetwork]] = HeadNetwork

    def __init__(
        self,
        *,
        config: FeatureConfig | None = None,
        width: int = 16,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.config = config
        self.width = width
        self.device = device
        self.seed = seed
        self.progress = progress

    def training_loss(self, batch: Batch) -> Tensor:
        """Compute the loss that is minimised on a batch; shape ()."""
        return factual_losses(batch).mean()

    def _check(self) -> None:
        super()._check()
        check_count(self.width, "width", most=100_000)
        if not isinstance(self.config, FeatureConfig | None):
            raise InputError(
                "config",
                expected="a FeatureConfig",
                found=describe(self.config),
                advice="Leave it out for the default.",
            )

    def _fit_effects(self, log: IncentiveLog) -> None:
        config = default_feature_config(len(log)) if self.config is None else self.config
        device = resolve_device(self.device)
        scaler = FeatureScaler.learn(log)
        inputs = feature_columns(scaler, log.x, device)
        columns = (*inputs, torch.tensor(log.cell, device=device))
        outcomes = CellColumns(device)

        def make(generator: torch.Generator) -> HeadNetwork:
            trunk = feature_trunk(scaler, self.width, config, generator)
            return self.network_type(trunk, self.n_heads, self.width, generator=generator)

        def loss(network: HeadNetwork, first: Tensor, second: Tensor, cell: Tensor, *more: Tensor) -> Tensor:
            (z, logits), (t, c, y) = network.outputs(first, second), outcomes(cell)
            batch = Batch(network, z, logits, t, c, y, more)
            if not torch.is_grad_enabled():  # held-out rows are only looked at
                return factual_losses(batch).mean()
            return self.training_loss(batch)

        task = NetworkTask(
            name=type(self).__name__,
            make=make,
            objective=lambda network: lambda *batch: loss(network, *batch),
            config=config.fit,
            n_networks=config.n_networks,
            device=device,
            seed=self.seed,
            progress=self.progress,
        )
        more = self._more_columns(log, config, scaler, inputs)
        networks, self.histories_ = fit_networks(task, log, (*columns, *more))
        self.network_ = HeadModel(networks, scaler)

    def _more_columns(
        self,
        log: IncentiveLog,
        config: FeatureConfig,
        scaler: FeatureScaler,
        inputs: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        """Return further columns that the loss takes, each of shape (n,), on the device."""
        return ()

    def _effects(self, x: NDArray[np.float64], names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        means = dict(zip(HEADS, self.network_.predict(x).T, strict=False))
        means[CATE] = means["converted_treated"] - means["converted_untreated"]
        return {name: means[name] for name in names}

    def _arm_means(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        means = self.network_.predict(x).T
        return means[0], means[3]

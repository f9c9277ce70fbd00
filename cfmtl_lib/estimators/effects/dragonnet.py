"""DragonNet with targeted regularisation (Shi, Blei and Veitch 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cfmtl_lib.estimators.effects.networks import HEADS, Batch, NetworkEffects, factual_losses
from cfmtl_lib.estimators.head_networks import HeadNetwork, cross_entropy
from cfmtl_lib.estimators.network_fits import check_weight
from cfmtl_lib.models.feature_networks import FeatureConfig
from cfmtl_lib.runtime.registry import storable

LEAST_PROPENSITY = 0.01
"""Bound of the propensity, from below and of its complement, where it is divided by."""


@storable
class DragonNetwork(HeadNetwork):
    r"""Network with a linear head of the propensity, and the perturbations :math:`\varepsilon`."""

    propensity: nn.Parameter
    epsilon: nn.Parameter

    @classmethod
    def shapes(cls, n_outputs: int, n_heads: int, width: int, n_experts: int) -> dict[str, tuple[int, ...]]:
        """See :meth:`~cfmtl_lib.estimators.head_networks.HeadNetwork.shapes`."""
        own = {"propensity": (n_outputs + 1,), "epsilon": (3,)}
        return {**super().shapes(n_outputs, n_heads, width, n_experts), **own}

    def propensity_logit(self, representation: Tensor) -> Tensor:
        """Compute the logit of the propensity, shape (n,)."""
        return representation @ self.propensity[:-1] + self.propensity[-1]


def targeted_losses(
    logits: Tensor, propensity: Tensor, epsilon: Tensor, t: Tensor, c: Tensor, y: Tensor
) -> Tensor:
    r"""Compute the targeted regularisation of each row, shape (n,).

    With Q the mean of an outcome in the row's arm and g the propensity, it is the squared error of

    .. math::
        Q + \varepsilon \left( \frac{t}{g} - \frac{1 - t}{1 - g} \right) .

    The payments CY and C are outcomes of the treated alone: only :math:`t / g` counts. Each of the three
    outcomes has its own :math:`\varepsilon` (Shi et al. 2019, equation 3.2).

    Parameters
    ----------
    logits : Tensor of shape (4, n)
        Logits of :data:`~cfmtl_lib.estimators.effects.networks.HEADS`.
    propensity : Tensor of shape (n,), in (0, 1)
    epsilon : Tensor of shape (3,)
        Perturbations of Y, CY and C.
    t, c, y : Tensor of shape (n,), 0 or 1
    """
    treated, used, collected, untreated = torch.sigmoid(logits[: len(HEADS)])
    toward, away = t / propensity, (1 - t) / (1 - propensity)
    mean = t * treated + (1 - t) * untreated
    total = (y - mean - epsilon[0] * (toward - away)).square()
    for k, (paid, outcome) in enumerate(((used, c * y), (collected, c)), start=1):
        total = total + t * (outcome - paid - epsilon[k] * toward).square()
    return total


class DragonNet(NetworkEffects, method="DragonNet"):
    r"""DragonNet: a representation that also predicts the treatment, with targeted regularisation.

    The loss is the factual loss, plus :math:`\alpha` times the cross-entropy of the propensity, which is
    linear in the representation, plus :math:`\beta` times :func:`targeted_losses`. So the representation
    keeps what predicts treatment. It estimates :math:`E[Y|T{=}t, x]` for both arms and the payments under
    treatment, and identifies no strata. Predictions are those of the heads, without the perturbation: it
    targets the average effect, not the effect at one x.

    Parameters
    ----------
    propensity_weight : float
        Weight :math:`\alpha` of the cross-entropy of the propensity.
    targeted_weight : float
        Weight :math:`\beta` of the targeted regularisation.
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.effects.networks.NetworkEffects`.
    """

    network_type = DragonNetwork

    def __init__(
        self,
        *,
        propensity_weight: float = 1.0,
        targeted_weight: float = 1.0,
        config: FeatureConfig | None = None,
        width: int = 16,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(config=config, width=width, device=device, seed=seed, progress=progress)
        self.propensity_weight = propensity_weight
        self.targeted_weight = targeted_weight

    def _check(self) -> None:
        super()._check()
        check_weight(self.propensity_weight, "propensity_weight")
        check_weight(self.targeted_weight, "targeted_weight")

    def training_loss(self, batch: Batch) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.effects.networks.NetworkEffects.training_loss`."""
        network: Any = batch.network
        logit = network.propensity_logit(batch.representation)
        propensity = torch.sigmoid(logit).clamp(LEAST_PROPENSITY, 1 - LEAST_PROPENSITY)
        targeted = targeted_losses(batch.logits, propensity, network.epsilon, batch.t, batch.c, batch.y)
        of_treatment = cross_entropy(logit, batch.t)
        added = float(self.propensity_weight) * of_treatment + float(self.targeted_weight) * targeted
        return (factual_losses(batch) + added).mean()

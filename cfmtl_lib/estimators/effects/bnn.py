"""Balancing neural network (BNN; Johansson, Shalit and Sontag 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from cfmtl_lib.estimators.effects.networks import HEADS, Batch, NetworkEffects, factual_losses
from cfmtl_lib.estimators.head_networks import HeadNetwork
from cfmtl_lib.estimators.network_fits import check_weight
from cfmtl_lib.models.feature_networks import FeatureConfig
from cfmtl_lib.runtime.registry import storable


def linear_discrepancy(representation: Tensor, t: Tensor) -> Tensor:
    r"""Compute the discrepancy of factual and counterfactual rows for linear predictors.

    It is the spectral norm of the difference of their second moments of (representation, treatment).
    Counterfactual rows have 1 - t (Johansson et al. 2016, Section 4). With p the share treated it is

    .. math::
        |p - \tfrac12| + \sqrt{(2p - 1)^2 / 4 + \lVert v \rVert^2}, \qquad
        v = p\,\bar\phi_1 - (1 - p)\,\bar\phi_0 .

    Parameters
    ----------
    representation : Tensor of shape (n, k)
    t : Tensor of shape (n,), 0 or 1

    Returns
    -------
    Tensor of shape ()
    """
    v = (representation * (2 * t - 1)[:, None]).mean(0)
    half = t.mean() - 0.5
    # The small number keeps the gradient finite at 0.
    return half.abs() + (half.square() + v.square().sum() + 1e-12).sqrt()


@storable
class TreatmentInputNetwork(HeadNetwork):
    """Network whose heads take the treatment as an input beside the representation."""

    n_extra = 1

    def outputs(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the representation and the logits of ``HEADS``: the three of T = 1, and Y of T = 0."""
        z = torch.relu(self.trunk(first, second)).T
        one = z.new_ones(len(z), 1)
        treated, untreated = (self.heads(torch.cat([z, arm], dim=1)) for arm in (one, 0 * one))
        return z, torch.cat([treated[: len(HEADS) - 1], untreated[:1]])


class BNN(NetworkEffects, method="BNN"):
    r"""Balancing neural network: treatment is an input of the heads, and the representation is balanced.

    One head an outcome takes the representation and T, for both arms alike. The loss is the factual loss
    plus :math:`\alpha` times the discrepancy of factual and counterfactual rows for linear predictors
    (:func:`linear_discrepancy`). The term of nearest neighbours in the bound of Johansson et al. is left out.
    It estimates :math:`E[Y|T{=}t, x]` and the payments under treatment, and identifies no strata.

    Parameters
    ----------
    penalty : float
        Weight :math:`\alpha` of the discrepancy.
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.effects.networks.NetworkEffects`.
    """

    n_heads = len(HEADS) - 1
    network_type = TreatmentInputNetwork

    def __init__(
        self,
        *,
        penalty: float = 0.01,
        config: FeatureConfig | None = None,
        width: int = 16,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(config=config, width=width, device=device, seed=seed, progress=progress)
        self.penalty = penalty

    def _check(self) -> None:
        super()._check()
        check_weight(self.penalty, "penalty")

    def training_loss(self, batch: Batch) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.effects.networks.NetworkEffects.training_loss`."""
        apart = linear_discrepancy(batch.representation, batch.t)
        return factual_losses(batch).mean() + float(self.penalty) * apart

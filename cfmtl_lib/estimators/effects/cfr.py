"""Counterfactual regression with a penalty on the distance of the arms (CFR; Shalit et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from cfmtl_lib.estimators.effects.networks import Batch
from cfmtl_lib.estimators.effects.tarnet import TARNet
from cfmtl_lib.estimators.network_fits import check_weight
from cfmtl_lib.models.feature_networks import FeatureConfig

MMD_ROWS = 512
"""Number of rows of a batch whose distances enter the penalty; its cost grows with their square."""


def squared_mmd(representation: Tensor, t: Tensor) -> Tensor:
    r"""Compute the squared maximum mean discrepancy between the arms, under a Gaussian kernel.

    The kernel is :math:`k(a, b) = \exp(-\lVert a - b \rVert^2 / s)`, with s the mean squared distance of all
    rows, held fixed. The discrepancy sums the mean of k within each arm, less twice the mean across
    (Gretton et al. 2012, equation 5). It is 0 where an arm has no rows.

    Parameters
    ----------
    representation : Tensor of shape (n, k)
    t : Tensor of shape (n,), 0 or 1

    Returns
    -------
    Tensor of shape ()
    """
    squares = representation.square().sum(1)
    distance = (squares[:, None] + squares - 2 * representation @ representation.T).clamp(min=0)
    kernel = torch.exp(-distance / distance.detach().mean().clamp(min=1e-12))
    n_treated, n_untreated = t.sum(), (1 - t).sum()
    weight = t / n_treated.clamp(min=1) - (1 - t) / n_untreated.clamp(min=1)
    return (weight @ kernel @ weight) * ((n_treated > 0) & (n_untreated > 0))


class CFR(TARNet, method="CFR"):
    r"""Counterfactual regression: TARNet with a penalty on how far the representations of the arms lie apart.

    The loss adds a penalty to that of :class:`~cfmtl_lib.estimators.effects.tarnet.TARNet`. It is
    :math:`\alpha` times the squared maximum mean discrepancy of the representation between the arms
    (Shalit et al. 2017, Section 4).
    It estimates :math:`E[Y|T{=}t, x]` for both arms and the payments under treatment. A large
    :math:`\alpha` also removes what the arms truly differ in. Its value cannot be chosen by held-out
    likelihood alone. It identifies no strata.

    Parameters
    ----------
    penalty : float
        Weight :math:`\alpha` of the discrepancy.
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.effects.networks.NetworkEffects`.
    """

    def __init__(
        self,
        *,
        penalty: float = 0.1,
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
        # Rows of a batch are in random order, so the first are a sample.
        apart = squared_mmd(batch.representation[:MMD_ROWS], batch.t[:MMD_ROWS])
        return super().training_loss(batch) + float(self.penalty) * apart

"""Deep entire-space cross network (DESCN; Zhong et al. 2022)."""

from __future__ import annotations

from torch import Tensor

from cfmtl_lib.estimators.effects.networks import HEADS, Batch, NetworkEffects
from cfmtl_lib.estimators.head_networks import cross_entropy, product_cross_entropy
from cfmtl_lib.estimators.network_fits import check_weight
from cfmtl_lib.models.feature_networks import FeatureConfig


class DESCN(NetworkEffects, method="DESCN"):
    r"""Deep entire-space cross network: responses learnt through the propensity, with a pseudo effect.

    Besides the means :math:`\mu_1, \mu_0` of Y the heads give the propensity :math:`\pi` and a pseudo effect
    :math:`\tau'` on the scale of logits. The loss of a row is (Zhong et al. 2022, Section 4)

    .. math::
        &\ell(\pi, T) + \ell(\pi \mu_1, T Y) + \ell((1 - \pi) \mu_0, (1 - T) Y) \\
        &+ \gamma \left[ T\, \ell(\mu_1', Y) + (1 - T)\, \ell(\mu_0', Y) \right] ,

    where :math:`\mathrm{logit}\,\mu_1' = \mathrm{logit}\,\mu_0 + \tau'` and
    :math:`\mathrm{logit}\,\mu_0' = \mathrm{logit}\,\mu_1 - \tau'`. The second and third terms take all
    rows: the entire space. CY and C under treatment have terms like the second. The effect is
    :math:`\mu_1 - \mu_0`. It estimates :math:`E[Y|T{=}t, x]` for both arms and the payments under treatment.
    It identifies no strata.

    Parameters
    ----------
    cross_weight : float
        Weight :math:`\gamma` of the cross network.
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.effects.networks.NetworkEffects`.
    """

    n_heads = len(HEADS) + 2

    def __init__(
        self,
        *,
        cross_weight: float = 0.1,
        config: FeatureConfig | None = None,
        width: int = 16,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(config=config, width=width, device=device, seed=seed, progress=progress)
        self.cross_weight = cross_weight

    def _check(self) -> None:
        super()._check()
        check_weight(self.cross_weight, "cross_weight")

    def training_loss(self, batch: Batch) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.effects.networks.NetworkEffects.training_loss`."""
        treated, used, collected, untreated, propensity, pseudo = batch.logits
        t, c, y = batch.t, batch.c, batch.y
        entire = (
            cross_entropy(propensity, t)
            + product_cross_entropy(propensity, treated, t * y)
            + product_cross_entropy(propensity, used, c * y)
            + product_cross_entropy(propensity, collected, c)
            + product_cross_entropy(-propensity, untreated, (1 - t) * y)
        )
        crossed = t * cross_entropy(untreated + pseudo, y) + (1 - t) * cross_entropy(treated - pseudo, y)
        return (entire + float(self.cross_weight) * crossed).mean()

"""Entire-space counterfactual multi-task model (ESCM2; Wang et al. 2022) with an untreated arm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfmtl_lib.errors import check_choice
from cfmtl_lib.estimators.entire_space.base import HEADS
from cfmtl_lib.estimators.entire_space.esmm import ESMM
from cfmtl_lib.estimators.entire_space.multi_ipw import check_floor, inverse_weights
from cfmtl_lib.estimators.head_networks import cross_entropy
from cfmtl_lib.estimators.network_fits import check_weight
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.feature_networks import FeatureConfig

RISKS = ("ipw", "dr")


class ESCM2(ESMM, method="ESCM2"):
    r"""Entire-space counterfactual model: ESMM, and a counterfactual risk of buying given collecting.

    The loss adds a risk, times :math:`\lambda`, to that of
    :class:`~cfmtl_lib.estimators.entire_space.esmm.ESMM` (Wang et al. 2022, Section 4). It is the risk of
    :math:`b_1` over all treated rows, and likewise of :math:`b_2`. With :math:`\delta = \ell(b_1, Y)` it is

    .. math::
        \text{ipw: } \frac{C}{p_C} \delta, \qquad
        \text{dr: } \hat\delta + \frac{C}{p_C} (\delta - \hat\delta)
        + \frac{C}{p_C} (\delta - \hat\delta)^2 ,

    with the learnt :math:`p_C` held fixed. Heads of their own impute :math:`\hat\delta`. The square, in which
    :math:`\delta` is held fixed, draws them to it. Both risks have the same slope by :math:`b_1`: the
    imputation acts through the shared representation alone. The model estimates
    :math:`P(C, Y \mid T{=}1, x)` and :math:`P(Y \mid T{=}0, x)`. It uses neither exclusion nor monotonicity
    and identifies no strata.

    Parameters
    ----------
    risk : {"ipw", "dr"}
        Counterfactual risk.
    risk_weight : float
        Weight :math:`\lambda` of the risk; 0 leaves ESMM.
    collect_floor : float
        Lower bound, from 1e-6 to 1, of the probabilities that weights divide by.
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.entire_space.base.EntireSpaceEstimator`.
    """

    n_heads = len(HEADS) + 2

    def __init__(
        self,
        *,
        risk: str = "dr",
        risk_weight: float = 0.1,
        collect_floor: float = 0.05,
        config: FitConfig | FeatureConfig | None = None,
        width: int = 16,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(config=config, width=width, device=device, seed=seed, progress=progress)
        self.risk = risk
        self.risk_weight = risk_weight
        self.collect_floor = collect_floor

    def _check(self) -> None:
        super()._check()
        check_choice("risk", self.risk, RISKS)
        check_weight(self.risk_weight, "risk_weight")
        check_floor(self.collect_floor)

    def loss(self, logits: Tensor, t: Tensor, c: Tensor, y: Tensor) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.entire_space.base.EntireSpaceEstimator.loss`."""
        risk = self.counterfactual_risk(logits, t, c, y)
        return super().loss(logits, t, c, y) + float(self.risk_weight) * risk

    def counterfactual_risk(self, logits: Tensor, t: Tensor, c: Tensor, y: Tensor) -> Tensor:
        """Compute the risk of both heads of buying, summed over treated rows, divided by all rows."""
        weights = inverse_weights(logits[0], c, float(self.collect_floor))
        total = torch.zeros_like(y)
        for head, (weight, imputed_logit) in enumerate(zip(weights, logits[len(HEADS) :], strict=True), 1):
            error = cross_entropy(logits[head], y)
            if self.risk == "ipw":
                total = total + weight * error
                continue
            imputed = nn.functional.softplus(imputed_logit)
            total = total + imputed + weight * (error - imputed)
            total = total + weight * (error.detach() - imputed).square()  # moves the imputation alone
        return (t * total).mean()

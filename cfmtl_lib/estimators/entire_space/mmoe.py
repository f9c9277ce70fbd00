"""Multi-gate mixture of experts (Ma et al. 2018, KDD) with the four heads of two arms."""

from __future__ import annotations

from torch import Tensor

from cfmtl_lib.checks import check_count
from cfmtl_lib.estimators.entire_space.base import EntireSpaceEstimator
from cfmtl_lib.estimators.head_networks import cross_entropy
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.feature_networks import FeatureConfig


class MMoE(EntireSpaceEstimator, method="MMoE"):
    r"""Multi-gate mixture of experts: the heads share experts, each through a gate of its own.

    Each head is learnt on the rows where its outcome is seen (Ma et al. 2018, KDD, Section 4.2):
    :math:`p_C` on the treated, :math:`b_1` and :math:`b_2` on treated rows with and without collecting,
    :math:`b_0` on the untreated. The loss is the log-likelihood of the six cells given the arm. So the model
    estimates :math:`P(C, Y \mid T{=}1, x)` and :math:`P(Y \mid T{=}0, x)`. It uses neither exclusion nor
    monotonicity and identifies no strata.

    Parameters
    ----------
    n_experts : int
        Number of experts, each a layer of ``width`` units.
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.entire_space.base.EntireSpaceEstimator`.
    """

    def __init__(
        self,
        *,
        n_experts: int = 4,
        config: FitConfig | FeatureConfig | None = None,
        width: int = 16,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(config=config, width=width, device=device, seed=seed, progress=progress)
        self.n_experts = n_experts

    def _check(self) -> None:
        super()._check()
        check_count(self.n_experts, "n_experts", most=1000)

    def _n_experts(self) -> int:
        return self.n_experts

    def loss(self, logits: Tensor, t: Tensor, c: Tensor, y: Tensor) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.entire_space.base.EntireSpaceEstimator.loss`."""
        collected, bought, without, untreated = logits[:4]
        buying = c * cross_entropy(bought, y) + (1 - c) * cross_entropy(without, y)
        treated = cross_entropy(collected, c) + buying
        return (t * treated + (1 - t) * cross_entropy(untreated, y)).mean()

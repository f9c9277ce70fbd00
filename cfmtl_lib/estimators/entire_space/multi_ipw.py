"""Multi-task inverse-propensity weighting (Multi-IPW; Zhang et al. 2020) with an untreated arm."""

from __future__ import annotations

from torch import Tensor

from cfmtl_lib.checks import check_number
from cfmtl_lib.estimators.entire_space.base import EntireSpaceEstimator
from cfmtl_lib.estimators.head_networks import cross_entropy
from cfmtl_lib.estimators.network_fits import LARGEST_WEIGHT
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.feature_networks import FeatureConfig


def inverse_weights(collected_logit: Tensor, c: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    r"""Compute :math:`C / p_C` and :math:`(1 - C) / (1 - p_C)`, without a gradient; each of shape (n,).

    Probabilities below ``floor`` are raised to it.
    """
    p = collected_logit.detach().sigmoid()
    return c / p.clamp(min=floor), (1 - c) / (1 - p).clamp(min=floor)


def check_floor(value: object) -> float:
    """Return the lower bound of probabilities that weights divide by: a float from 1e-6 to 1.

    Raises
    ------
    InputError
        If it is anything else.
    """
    return check_number(value, "collect_floor", low=1 / LARGEST_WEIGHT, high=1)


class MultiIPW(EntireSpaceEstimator, method="Multi-IPW"):
    r"""Multi-task inverse-propensity weighting: buying given collecting, weighted to all treated rows.

    Buying is seen only where C is. The loss of a treated row divides by the learnt probability of
    collecting, which is held fixed there (Zhang et al. 2020):

    .. math::
        \ell(p_C, C) + \frac{C}{p_C} \ell(b_1, Y) + \frac{1 - C}{1 - p_C} \ell(b_2, Y) .

    An untreated row adds :math:`\ell(b_0, Y)`. Embeddings are shared by the heads. The model estimates
    :math:`P(C, Y \mid T{=}1, x)` and :math:`P(Y \mid T{=}0, x)`. The weights correct for who collects, not
    for who is treated. It uses neither exclusion nor monotonicity and identifies no strata.

    Parameters
    ----------
    collect_floor : float
        Lower bound, from 1e-6 to 1, of the probabilities that weights divide by.
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.entire_space.base.EntireSpaceEstimator`.
    """

    def __init__(
        self,
        *,
        collect_floor: float = 0.05,
        config: FitConfig | FeatureConfig | None = None,
        width: int = 16,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(config=config, width=width, device=device, seed=seed, progress=progress)
        self.collect_floor = collect_floor

    def _check(self) -> None:
        super()._check()
        check_floor(self.collect_floor)

    def loss(self, logits: Tensor, t: Tensor, c: Tensor, y: Tensor) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.entire_space.base.EntireSpaceEstimator.loss`."""
        collected, bought, without, untreated = logits[:4]
        with_it, without_it = inverse_weights(collected, c, float(self.collect_floor))
        buying = with_it * cross_entropy(bought, y) + without_it * cross_entropy(without, y)
        treated = cross_entropy(collected, c) + buying
        return (t * treated + (1 - t) * cross_entropy(untreated, y)).mean()

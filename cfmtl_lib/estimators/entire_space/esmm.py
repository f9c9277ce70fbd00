"""Entire-space multi-task model (Ma et al. 2018, SIGIR), with an arm without the incentive."""

from __future__ import annotations

from torch import Tensor

from cfmtl_lib.estimators.entire_space.base import EntireSpaceEstimator
from cfmtl_lib.estimators.head_networks import cross_entropy, product_cross_entropy


class ESMM(EntireSpaceEstimator, method="ESMM"):
    r"""Entire-space multi-task model: buying given collecting is learnt through its product with collecting.

    Let :math:`\ell` be the cross-entropy. A treated row has the losses of ESMM's two tasks (Ma et al. 2018,
    SIGIR, equation 3). The third term does the same for buying without collecting:

    .. math::
        \ell(p_C, C) + \ell(p_C b_1, C Y) + \ell((1 - p_C) b_2, (1 - C) Y) .

    An untreated row adds :math:`\ell(b_0, Y)`. All treated rows train the heads :math:`b_1` and :math:`b_2`:
    the entire space, not only the rows that collected. The model estimates
    :math:`P(C, Y \mid T{=}1, x)` and :math:`P(Y \mid T{=}0, x)`. It uses neither exclusion nor monotonicity
    and identifies no strata.

    Parameters
    ----------
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.entire_space.base.EntireSpaceEstimator`.

    Examples
    --------
    >>> import cfmtl_lib as cf
    >>> study = cf.simulated_features(1000)
    >>> quick = cf.FeatureConfig(hidden=(8,), n_networks=1, fit=cf.FitConfig(tolerance=0.01))
    >>> cf.ESMM(config=quick, width=4).fit(study.log).predict_cells(study.log).shape
    (1000, 6)
    """

    def loss(self, logits: Tensor, t: Tensor, c: Tensor, y: Tensor) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.entire_space.base.EntireSpaceEstimator.loss`."""
        collected, bought, without, untreated = logits[:4]
        treated = (
            cross_entropy(collected, c)
            + product_cross_entropy(collected, bought, c * y)
            + product_cross_entropy(-collected, without, (1 - c) * y)
        )
        return (t * treated + (1 - t) * cross_entropy(untreated, y)).mean()

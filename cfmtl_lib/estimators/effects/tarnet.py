"""Treatment-agnostic representation network (TARNet; Shalit, Johansson and Sontag 2017)."""

from __future__ import annotations

from torch import Tensor

from cfmtl_lib.estimators.effects.networks import Batch, NetworkEffects, factual_losses


def arm_weights(t: Tensor) -> Tensor:
    r"""Compute the weights :math:`t / 2u + (1 - t) / 2(1 - u)` of rows; u is the share treated of the batch.

    They give both arms the same total weight (Shalit et al. 2017, Section 4). Rows of a batch without the
    other arm keep the weight 1.
    """
    u = t.mean()
    both = (u > 0) & (u < 1)
    u = u.clamp(min=1e-6, max=1 - 1e-6)
    return (t / (2 * u) + (1 - t) / (2 * (1 - u))).where(both, t.new_ones(()))


class TARNet(NetworkEffects, method="TARNet"):
    r"""Treatment-agnostic representation network: one representation, heads of their own for each arm.

    It estimates :math:`E[Y|T{=}t, x]` for both arms, and the payments under treatment, by outcome
    regression on a shared representation. Both arms have the same total weight in the loss. If T does not
    depend on the potential outcomes given x, their difference is the effect. It identifies no strata.

    Parameters
    ----------
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.effects.networks.NetworkEffects`.

    Examples
    --------
    >>> import cfmtl_lib as cf
    >>> study = cf.simulated_features(1000)
    >>> quick = cf.FeatureConfig(hidden=(8,), n_networks=1, fit=cf.FitConfig(tolerance=0.01))
    >>> cf.TARNet(config=quick, width=4).fit(study.log).predict_cate(study.log).shape
    (1000,)
    """

    def training_loss(self, batch: Batch) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.effects.networks.NetworkEffects.training_loss`."""
        return (arm_weights(batch.t) * factual_losses(batch)).mean()

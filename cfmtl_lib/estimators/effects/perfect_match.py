"""Perfect match (PM; Schwab, Linhardt and Karlen 2018): batches with matched rows of the other arm."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cfmtl_lib.estimators.effects.networks import Batch, NetworkEffects, factual_losses
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.models.feature_networks import FeatureConfig, FeatureNetwork, FeatureScaler
from cfmtl_lib.models.training import derive_generator, fit_probability
from cfmtl_lib.runtime.threads import one_torch_thread


def match_counts(score: Tensor, t: Tensor) -> Tensor:
    """Count how often each row is the nearest of its arm, by score, to a row of the other arm.

    Parameters
    ----------
    score : Tensor of shape (n,)
        Finite scores: logits of the propensity.
    t : Tensor of shape (n,), 0 or 1

    Returns
    -------
    Tensor of shape (n,)
        Counts, which sum to n where both arms have rows; 0 where one has none. Rows of equal scores share
        those that ask for them.
    """
    counts = torch.zeros_like(score)
    for arm in (0, 1):
        # Rows of the asking arm lie beyond all scores, so that no shape depends on the data.
        ordered, position = torch.where(t == arm, score, torch.inf).sort()
        above = torch.searchsorted(ordered, score.contiguous()).clamp(max=len(score) - 1)
        below = (above - 1).clamp(min=0)
        gaps = [(ordered.index_select(0, k) - score).abs() for k in (below, above)]
        nearest = torch.where(gaps[0] <= gaps[1], below, above)
        # Equal scores share the rows that ask, in turn: else one row of a category would stand for all.
        value = ordered.index_select(0, nearest)
        first, end = (torch.searchsorted(ordered, value, right=after) for after in (False, True))
        asks = t != arm
        nearest = first + asks.int().cumsum(0) % (end - first)
        found = value.isfinite() & asks
        counts = counts.index_add(0, position.index_select(0, nearest), found.to(counts.dtype))
    return counts


class PerfectMatch(NetworkEffects, method="PM"):
    r"""Perfect match: each row of a batch brings along its nearest neighbour of the other arm.

    Neighbours are nearest by the logit of a propensity, fitted first by logistic regression. It is fitted
    even where the log has a known one: in a randomised log all rows would be equally near. They are looked
    for in the same batch, with replacement (Schwab et al. 2018, Section 3). The loss is the factual loss of
    rows and neighbours, so each batch is as if treated at random. The network is that of
    :class:`~cfmtl_lib.estimators.effects.tarnet.TARNet`. It estimates :math:`E[Y|T{=}t, x]` for both arms
    and the payments under treatment. It identifies no strata.

    Parameters
    ----------
    config, width, device, seed, progress
        See :class:`~cfmtl_lib.estimators.effects.networks.NetworkEffects`.
    """

    @one_torch_thread()
    def _more_columns(
        self,
        log: IncentiveLog,
        config: FeatureConfig,
        scaler: FeatureScaler,
        inputs: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        device = inputs[0].device
        generator = derive_generator(self.seed, "PerfectMatch propensity", device)
        network = FeatureNetwork(
            scaler.n_numbers, scaler.levels, config=replace(config, hidden=()), generator=generator
        )
        fit_probability(
            network,
            (*inputs, torch.tensor(log.t, dtype=torch.float32, device=device)),
            replace(config.fit, loss="cross_entropy"),
            generator=generator,
            label="PerfectMatch propensity",
            progress=self.progress,
        )
        with torch.no_grad():
            return (network(*inputs),)

    def training_loss(self, batch: Batch) -> Tensor:
        """See :meth:`~cfmtl_lib.estimators.effects.networks.NetworkEffects.training_loss`."""
        weight = 1 + match_counts(batch.more[0], batch.t)
        return (weight * factual_losses(batch)).sum() / weight.sum()

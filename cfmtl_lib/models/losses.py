"""Losses that networks minimise: that of the six observable cells (CF-MTL), and that of one probability.

The cell loss exists twice: as :class:`_CellLoss` here, and compiled in ``cell_kernels.py``. Change both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from cfmtl_lib.checks import check_number
from cfmtl_lib.errors import InputError
from cfmtl_lib.models.feature_networks import FeatureNetwork
from cfmtl_lib.models.pair_networks import AdditiveNetwork
from cfmtl_lib.runtime.registry import storable
from cfmtl_lib.strata import CELL_MEMBERSHIP, CELLS, N_TREATED_CELLS, STRATA

INSIDE_LOG = 1e-6
"""Constant added to a cell probability inside the cross-entropy, as in the authors' code."""


@storable
class CellNetwork(nn.Module):
    """Strata head and propensity network with the six-cell loss.

    Parameters
    ----------
    strata : AdditiveNetwork or FeatureNetwork
        Strata head with five outputs, the softmax logits of the strata.
    propensity : AdditiveNetwork or FeatureNetwork
        Propensity network with one output.
    weights : CellWeights
    propensity_floor : float
        Lower bound of g inside the loss.
    propensity_weight : float
        Weight of the squared-error loss of g; 0 leaves it out.
    """

    def __init__(
        self,
        strata: AdditiveNetwork | FeatureNetwork,
        propensity: AdditiveNetwork | FeatureNetwork,
        *,
        weights: CellWeights,
        propensity_floor: float,
        propensity_weight: float,
    ) -> None:
        super().__init__()
        self.strata, self.propensity, self.weights = strata, propensity, weights
        self.propensity_floor, self.propensity_weight = propensity_floor, propensity_weight
        self.cell_weight: Tensor
        self.membership: Tensor
        self.cell_number: Tensor
        like = next(strata.parameters()).detach()
        self.register_buffer("cell_weight", like.new_tensor(weights.in_cell_order())[:, None])
        self.register_buffer("membership", like.new_tensor(CELL_MEMBERSHIP.tolist()))
        self.register_buffer(
            "cell_number", torch.arange(len(CELLS), dtype=torch.int8, device=like.device)[:, None]
        )  # int8 as the cells of a log: mixed types compare slowly

    def pair_network(self, part: str) -> AdditiveNetwork:
        """Return one of the two networks, "strata" or "propensity", of a model of pairs."""
        network = getattr(self, part)
        assert isinstance(network, AdditiveNetwork)
        return network

    def predict(self, part: str, x: NDArray) -> NDArray[np.float64]:
        """Predict probabilities of the "strata", (n, 5), or of the "propensity", (n,), at pairs x."""
        return self.pair_network(part).predict(x)

    def loss(self, first: Tensor, second: Tensor, cell: Tensor) -> Tensor:
        """Compute the summed loss of a batch.

        First and second are user and item ids, or numbers and codes of features; ``cell`` holds indices into
        :data:`~cfmtl_lib.strata.CELLS`.
        """
        return _CellLoss.apply(self.strata(first, second), self.propensity(first, second), cell, self)

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        names = ("strata", "propensity", "weights", "propensity_floor", "propensity_weight")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        strata, propensity = parts["strata"], parts["propensity"]
        shapes = [_shape_of(network) for network in (strata, propensity)]
        if shapes[0] != shapes[1] or (_n_outputs(strata), _n_outputs(propensity)) != (len(STRATA), 1):
            raise InputError(
                "networks", expected=f"two of one x with {len(STRATA)} outputs and 1", found="others"
            )
        if not isinstance(parts["weights"], CellWeights):
            raise InputError("weights", expected="CellWeights", found=type(parts["weights"]).__name__)
        for name, value in {**vars(parts["weights"]), **parts}.items():
            if name not in ("strata", "propensity", "weights"):
                check_number(value, name, low=0.0)
        return cls(**parts)

    def compact(self) -> Self:
        """Return the same functions with both pair networks compact; see ``AdditiveNetwork.compact``."""
        small = copy.copy(self)
        small._modules = {part: self.pair_network(part).compact() for part in ("strata", "propensity")}
        return small


def _shape_of(network: Any) -> tuple[Any, ...]:
    """Return the kind of a network and the sizes of its x."""
    if isinstance(network, AdditiveNetwork):
        return AdditiveNetwork, network.n_users, network.n_items
    if isinstance(network, FeatureNetwork):
        return FeatureNetwork, network.n_numbers, network.levels
    raise InputError("network", expected="a network of pairs or features", found=type(network).__name__)


def _n_outputs(network: AdditiveNetwork | FeatureNetwork) -> int:
    return len(network.bias) if isinstance(network, AdditiveNetwork) else network.n_outputs


class _CellLoss(torch.autograd.Function):
    """Loss as a function of the logits, with its gradient written out.

    Let inner be the probability of what happened in a cell: q if the row lies there, 1 - q if not. The loss
    of a cell is -w log(inner); its derivative by q is -w/q or w/(1 - q). The chain rule from there to the
    logits is a few products. Recording them for autograd takes twice the time.
    """

    @staticmethod
    def forward(
        ctx: Any, strata_logits: Tensor, propensity_logit: Tensor, cell: Tensor, network: CellNetwork
    ) -> Tensor:
        n_treated, membership, weight = N_TREATED_CELLS, network.membership, network.cell_weight
        f = torch.softmax(strata_logits, dim=0)
        sigmoid = torch.sigmoid(propensity_logit)
        g = sigmoid.clamp(min=network.propensity_floor)
        given_arm = membership @ f
        arm = torch.empty_like(given_arm)
        arm[:n_treated] = g
        arm[n_treated:] = 1 - g
        q = (given_arm * arm + INSIDE_LOG).clamp_(max=1 - torch.finfo(f.dtype).eps)
        elsewhere = cell.ne(network.cell_number).to(q.dtype)
        inner = (q - elsewhere).abs()
        total = -(weight * inner.log()).sum()

        by_q = weight * (2 * elsewhere - 1) / inner
        by_f = membership.T @ (by_q * arm)
        by_arm = by_q * given_arm
        by_g = by_arm[:n_treated].sum(0) - by_arm[n_treated:].sum(0)
        if network.propensity_weight:
            error = g - (cell < n_treated).to(g.dtype)
            total = total + network.propensity_weight * error.square().sum()
            by_g += 2 * network.propensity_weight * error
        ctx.save_for_backward(
            f * (by_f - (f * by_f).sum(0)),
            by_g * sigmoid * (1 - sigmoid) * (sigmoid > network.propensity_floor),
        )
        return total

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_strata, by_propensity = ctx.saved_tensors
        return by_strata * by_loss, by_propensity * by_loss, None, None


@storable
@dataclass(frozen=True)
class CellWeights:
    """Weights of the six cross-entropies of CF-MTL, named by the cell (t, c, y) of each.

    ``t0c0y1`` is the term that the reproduction report calls L_001, ``t0c0y0`` the one it calls L_000.
    """

    t1c0y0: float
    t1c0y1: float
    t1c1y0: float
    t1c1y1: float
    t0c0y1: float
    t0c0y0: float

    def in_cell_order(self) -> tuple[float, ...]:
        """Return the weights in the order of :data:`~cfmtl_lib.strata.CELLS`."""
        return self.t1c0y0, self.t1c0y1, self.t1c1y0, self.t1c1y1, self.t0c0y1, self.t0c0y0


class ProbabilityLoss:
    """Mean loss of sigmoid(network(first, second)) against a target, as ``FitConfig.loss`` names it."""

    def __init__(self, network: nn.Module, loss: str) -> None:
        self.network, self.loss = network, loss

    def __call__(self, first: Tensor, second: Tensor, target: Tensor) -> Tensor:
        """Compute the mean loss of a batch."""
        logit = self.network(first, second)
        if self.loss == "squared_error":
            return nn.functional.mse_loss(torch.sigmoid(logit), target)
        return nn.functional.binary_cross_entropy_with_logits(logit, target)


def expected_cell_losses(assumed: ArrayLike, truth: ArrayLike, propensity: ArrayLike) -> NDArray[np.float64]:
    """Compute the expected cross-entropy of each cell if ``truth`` holds and ``assumed`` is predicted.

    Parameters
    ----------
    assumed, truth : array_like of shape (n, 5), float
        Strata probabilities.
    propensity : array_like of shape (n,), float
        Propensity, both true and predicted.

    Returns
    -------
    ndarray of shape (6,), float64
        Unweighted means over rows, in nats, in the order of :data:`~cfmtl_lib.strata.CELLS`.
    """
    e = np.asarray(propensity, dtype=np.float64)
    arm = np.stack([e if t else 1 - e for t, _, _ in CELLS])
    q, happens = (arm * (CELL_MEMBERSHIP @ np.asarray(p, dtype=np.float64).T) for p in (assumed, truth))
    q = np.clip(q + INSIDE_LOG, None, 1 - INSIDE_LOG)
    return -(happens * np.log(q) + (1 - happens) * np.log(1 - q)).mean(axis=1)

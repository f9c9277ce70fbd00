r"""The two small networks of the paper, on user-item pairs.

The paper's "NCF" is :math:`\sigma(w^\top [U_u, V_i] + b)`. A linear layer on concatenated embeddings has no
interaction: with :math:`w = (w_U, w_V)` its logit equals :math:`a_u + b_i + b`, where
:math:`a_u = w_U^\top U_u` and :math:`b_i = w_V^\top V_i`. So a step multiplies the two embedding tables
by w once and gathers one scalar a row, instead of gathering 2k numbers a row. Values and
gradients are those of the concatenated form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from cfmtl_lib.checks import check_count
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.validation import check_pairs
from cfmtl_lib.runtime.registry import storable

Network = TypeVar("Network", bound=nn.Module)

ROWS_PER_PREDICTION = 1 << 18
"""Rows predicted at once if a row is a few numbers; this bounds memory at no cost in time."""

ROWS_OF_EMBEDDINGS = 1 << 14
"""Rows predicted at once if a row is two embeddings; more would leave the cache and take twice the time."""


class PairNetwork(nn.Module):
    """User and item embeddings of k numbers each, drawn from N(0, sd^2) (paper: sd = 1).

    Parameters
    ----------
    n_users, n_items, embedding_k : int
        Sizes of the two embedding tables.
    generator : torch.Generator
        Source of the initial values; the tables are created on its device.
    embedding_sd : float
        Standard deviation of the initial embeddings.
    dtype : torch.dtype
        Type of the parameters; float32 unless given.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        embedding_k: int,
        *,
        generator: torch.Generator,
        embedding_sd: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items, self.embedding_k = n_users, n_items, embedding_k

        def table(rows: int) -> nn.Parameter:
            values = torch.randn(rows, embedding_k, generator=generator, device=generator.device, dtype=dtype)
            return nn.Parameter(values * embedding_sd)

        self.user = table(n_users)
        self.item = table(n_items)

    def sizes(self) -> dict[str, int]:
        """Return the sizes that the constructor takes."""
        return {"n_users": self.n_users, "n_items": self.n_items, "embedding_k": self.embedding_k}

    def predict(self, x: ArrayLike) -> NDArray[np.float64]:
        """See :func:`predict_probability`."""
        return predict_probability(self, x)

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        return {"sizes": self.sizes(), "parameters": parameters_as_arrays(self)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        sizes = {name: check_count(value, f"size {name}") for name, value in parts["sizes"].items()}
        check_parameters(parts["parameters"], cls.shapes(**sizes))  # before there is memory for them
        dtype = getattr(torch, parts["parameters"]["user"].dtype.name)
        network = cls(**sizes, generator=torch.Generator(device=device), dtype=dtype)
        return with_parameters(network, parts["parameters"])

    @classmethod
    def shapes(cls, n_users: int, n_items: int, embedding_k: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters by name."""
        return {"user": (n_users, embedding_k), "item": (n_items, embedding_k)}


@storable
class AdditiveNetwork(PairNetwork):
    """The paper's NCF, with one logit or, as the strata head of CF-MTL, five.

    The linear layer starts as ``torch.nn.Linear(2k, n_outputs)`` does: uniform in +-1/sqrt(2k).
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        embedding_k: int,
        n_outputs: int = 1,
        *,
        generator: torch.Generator,
        embedding_sd: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            n_users, n_items, embedding_k, generator=generator, embedding_sd=embedding_sd, dtype=dtype
        )
        bound = (2 * embedding_k) ** -0.5

        def uniform(*shape: int) -> nn.Parameter:
            unit = torch.rand(*shape, generator=generator, device=generator.device, dtype=dtype)
            return nn.Parameter((2 * unit - 1) * bound)

        self.weight = uniform(n_outputs, 2 * embedding_k)
        self.bias = uniform(n_outputs)

    def sizes(self) -> dict[str, int]:
        """Return the sizes that the constructor takes."""
        return {**super().sizes(), "n_outputs": len(self.bias)}

    @classmethod
    def shapes(
        cls, n_users: int, n_items: int, embedding_k: int, n_outputs: int = 1
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters by name."""
        layer = {"weight": (n_outputs, 2 * embedding_k), "bias": (n_outputs,)}
        return {**super().shapes(n_users, n_items, embedding_k), **layer}

    def scalars(self) -> tuple[Tensor, Tensor]:
        """Compute the user part and the item part (with the bias) of the logits.

        Returns
        -------
        by_user, by_item : Tensor
            Parts of shapes (n_users,) and (n_items,) with one output, else (m, n_users) and (m, n_items).
        """
        w_user, w_item = self.weight.split(self.embedding_k, dim=1)
        if len(self.bias) == 1:
            return self.user.mv(w_user[0]), self.item.mv(w_item[0]) + self.bias
        return _Project.apply(w_user, self.user), _Project.apply(w_item, self.item) + self.bias[:, None]

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Compute logits of shape (n,), or (n_outputs, n) where there are several.

        Outputs come first because vectors gather, scatter and normalise several times faster than
        rows of five.
        """
        by_user, by_item = self.scalars()
        if by_user.ndim == 1:
            return by_user.index_select(0, user) + by_item.index_select(0, item)
        return _gather_each(by_user, user) + _gather_each(by_item, item)

    def compact(self) -> AdditiveNetwork:
        """Return the same function with embeddings of one number per output, exactly.

        Its tables hold the scalars a_u and b_i themselves; its layer adds them up. It is meant for storage.
        Training it with a fixed layer is the additive parametrisation, not the paper's.
        """
        n_outputs = len(self.bias)
        generator = torch.Generator(device=self.user.device)
        small = AdditiveNetwork(
            self.n_users, self.n_items, n_outputs, n_outputs, generator=generator, dtype=self.user.dtype
        )
        with torch.no_grad():
            by_user, by_item = self.scalars()
            small.user.copy_(by_user.reshape(n_outputs, -1).T)
            small.item.copy_(by_item.reshape(n_outputs, -1).T)
            one = torch.eye(n_outputs, dtype=self.user.dtype, device=self.user.device)
            small.weight.copy_(torch.cat([one, one], dim=1))
            small.bias.zero_()
        return small


class _Project(torch.autograd.Function):
    """Product weight @ table.T; autograd by itself would return a transposed gradient and copy it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(weight, table)
        return weight @ table.T

    @staticmethod
    def backward(ctx: Any, by_product: Tensor) -> tuple[Tensor, Tensor]:
        weight, table = ctx.saved_tensors
        return by_product @ table, by_product.T @ weight


def _gather_each(rows: Tensor, index: Tensor) -> Tensor:
    return torch.stack([row.index_select(0, index) for row in rows.unbind(0)])


@storable
class FactorizationNetwork(PairNetwork):
    """Matrix factorisation: logit U_u . V_i."""

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Compute logits of shape (n,)."""
        # index_select, not nn.functional.embedding: its backward pass is several times faster on a CPU.
        return (self.user.index_select(0, user) * self.item.index_select(0, item)).sum(1)


def parameters_as_arrays(module: nn.Module) -> dict[str, NDArray]:
    """Return the parameters of a network by name, on the CPU."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def check_parameters(arrays: Mapping[str, NDArray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check the parameters of a network before it is made.

    Raises
    ------
    InputError
        If a parameter is missing, has another shape or type, or is not finite, or there is another one.
    """
    for name in [*shapes, *arrays]:
        shape, found = shapes.get(name), arrays.get(name)
        if shape is None or not isinstance(found, np.ndarray) or found.shape != shape:
            raise InputError(
                f"parameter {name}",
                expected="none" if shape is None else f"shape {shape}",
                found=f"shape {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__,
            )
        if found.dtype not in (np.float32, np.float64) or found.dtype != arrays[next(iter(shapes))].dtype:
            raise InputError(
                f"parameter {name}", expected="32 or 64-bit floats, as all", found=str(found.dtype)
            )
        if not np.isfinite(found).all():
            raise InputError(f"parameter {name}", expected="finite numbers", found="others")


def with_parameters(module: Network, arrays: Mapping[str, NDArray]) -> Network:
    """Set the parameters of a network to those of :func:`parameters_as_arrays`, and return it."""
    module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in arrays.items()})
    return module


def predict_probability(network: PairNetwork, x: ArrayLike) -> NDArray[np.float64]:
    """Predict the sigmoid (one logit) or softmax (several) of a network's logits at pairs x.

    Parameters
    ----------
    network : PairNetwork
    x : array_like of shape (n, 2), integer
        User and item ids.

    Returns
    -------
    ndarray of shape (n,) or (n, n_outputs), float64
        Probabilities; rows of several outputs sum to 1 within 1e-12.

    Raises
    ------
    LogError
        If an id lies outside the tables of the network.
    """
    # A copy, for the arrays of a log are locked and torch would take them for its own.
    pairs = torch.from_numpy(check_pairs(x, network.n_users, network.n_items).copy())
    device = network.user.device
    parts = []
    n_rows = ROWS_PER_PREDICTION if isinstance(network, AdditiveNetwork) else ROWS_OF_EMBEDDINGS
    with torch.no_grad():
        for chunk in pairs.split(n_rows):
            logits = network(chunk[:, 0].to(device), chunk[:, 1].to(device))
            # float64 after the copy: not every accelerator has it.
            logits = logits.cpu().double()
            parts.append(torch.sigmoid(logits) if logits.ndim == 1 else torch.softmax(logits, dim=0).T)
    return torch.cat(parts).numpy()

"""Networks with several heads on pairs or features: a tower for each head, or a mixture of experts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cfmtl_lib.checks import check_count
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.validation import check_pairs
from cfmtl_lib.models.feature_networks import (
    FeatureConfig,
    FeatureNetwork,
    FeatureScaler,
    feature_columns,
)
from cfmtl_lib.models.pair_networks import (
    ROWS_OF_EMBEDDINGS,
    PairNetwork,
    check_parameters,
    parameters_as_arrays,
    with_parameters,
)
from cfmtl_lib.runtime.registry import storable


@storable
class PairTrunk(PairNetwork):
    r"""Embeddings of users and items, and additive scores of each for every head.

    The first ``embedding_k`` columns of a table are factors :math:`U_u` and :math:`V_i`. The last
    ``n_scores`` columns are the additive scores :math:`a_{uh}` and :math:`b_{ih}`, which start at 0.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        embedding_k: int,
        n_scores: int,
        *,
        generator: torch.Generator,
        embedding_sd: float = 0.1,
    ) -> None:
        width = embedding_k + n_scores
        super().__init__(n_users, n_items, width, generator=generator, embedding_sd=embedding_sd)
        self.n_factors, self.n_scores = embedding_k, n_scores
        with torch.no_grad():
            for table in (self.user, self.item):
                table[:, embedding_k:] = 0.0

    @property
    def n_outputs(self) -> int:
        """Length of the representation."""
        return 3 * self.n_factors

    def sizes(self) -> dict[str, int]:
        """Return the sizes that the constructor takes."""
        return {**super().sizes(), "embedding_k": self.n_factors, "n_scores": self.n_scores}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        sizes = {name: check_count(value, f"size {name}") for name, value in parts["sizes"].items()}
        width = sizes["embedding_k"] + sizes["n_scores"]
        check_parameters(parts["parameters"], cls.shapes(sizes["n_users"], sizes["n_items"], width))
        return with_parameters(cls(**sizes, generator=torch.Generator(device=device)), parts["parameters"])

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the representation [U, V, U * V], shape (n, 3 k), and the scores, (n_scores, n)."""
        of_user, of_item = self.user.index_select(0, user), self.item.index_select(0, item)
        k = self.n_factors
        u, v = of_user[:, :k], of_item[:, :k]
        return torch.cat([u, v, u * v], dim=1), (of_user[:, k:] + of_item[:, k:]).T


def feature_trunk(
    scaler: FeatureScaler, width: int, config: FeatureConfig, generator: torch.Generator
) -> FeatureNetwork:
    """Make a trunk for features that gives a representation of ``2 width`` numbers, at least two."""
    n_outputs = max(2, 2 * width)
    trunk = FeatureNetwork(scaler.n_numbers, scaler.levels, n_outputs, config=config, generator=generator)
    with torch.no_grad():  # logits start near 0; a hidden layer starts at the scale of the others
        trunk.head.normal_(0, math.sqrt(2 / trunk.head.shape[1]), generator=generator)
    return trunk


@storable
class HeadNetwork(nn.Module):
    r"""Trunk with several heads, each a logit.

    Without experts each head is a tower of one hidden layer on the representation (shared bottom). With
    experts, head h takes a mixture of their outputs, :math:`\sum_e g_{he}(z) f_e(z)`. Its gates are
    :math:`g_h = \mathrm{softmax}(G_h z)` (Ma et al. 2018, MMoE, Section 4.2).

    Parameters
    ----------
    trunk : PairTrunk or FeatureNetwork
        Network that gives the representation. The outputs of a ``FeatureNetwork`` pass a rectifier.
    n_heads : int
    width : int
        Units of the hidden layer of a tower, or of an expert.
    n_experts : int
        Number of experts; 0 for towers.
    generator : torch.Generator
        Source of the initial values, on the device of the trunk.
    """

    n_extra: ClassVar[int] = 0
    """Number of inputs of the heads beside the representation."""

    def __init__(
        self,
        trunk: PairTrunk | FeatureNetwork,
        n_heads: int,
        width: int,
        n_experts: int = 0,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.trunk, self.n_heads, self.width, self.n_experts = trunk, n_heads, width, n_experts
        device = generator.device
        for name, shape in self.shapes(trunk.n_outputs, n_heads, width, n_experts).items():
            values = torch.zeros(shape, device=device)
            if name == "hidden":
                values = torch.randn(shape, generator=generator, device=device) * math.sqrt(2 / shape[1])
            elif name == "out":
                values = torch.randn(shape, generator=generator, device=device) * (0.1 / math.sqrt(width))
            setattr(self, name, nn.Parameter(values))

    hidden: nn.Parameter
    hidden_bias: nn.Parameter
    out: nn.Parameter
    out_bias: nn.Parameter
    gate: nn.Parameter

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute logits of shape (n_heads, n).

        First and second are user and item ids, or numbers and codes of features.
        """
        return self.outputs(first, second)[1]

    def outputs(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the representation, shape (n, k), and the logits, (n_heads, n)."""
        if isinstance(self.trunk, PairTrunk):
            z, additive = self.trunk(first, second)
            return z, self.heads(z) + additive
        z = torch.relu(self.trunk(first, second)).T
        return z, self.heads(z)

    def heads(self, z: Tensor) -> Tensor:
        """Compute the logits of a representation, without additive scores; shape (n_heads, n)."""
        hidden = torch.relu(nn.functional.linear(z, self.hidden, self.hidden_bias))
        hidden = hidden.view(len(z), -1, self.width)
        if self.n_experts:
            gate = nn.functional.linear(z, self.gate).view(len(z), self.n_heads, self.n_experts)
            hidden = torch.softmax(gate, dim=2) @ hidden
        return (hidden * self.out).sum(2).T + self.out_bias[:, None]

    def probabilities(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute what is averaged over networks, here the probability of each head; (n, n_heads) float64."""
        return torch.sigmoid(self.double_logits(first, second)).T

    def double_logits(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute logits of shape (n_heads, n) in float64, on the CPU."""
        return self(first, second).cpu().double()  # after the copy: not every accelerator has float64

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        sizes = {"n_heads": self.n_heads, "width": self.width, "n_experts": self.n_experts}
        own = {name: value for name, value in parameters_as_arrays(self).items() if "trunk." not in name}
        return {"trunk": self.trunk, "sizes": sizes, "parameters": own}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        trunk, sizes = parts["trunk"], parts["sizes"]
        if not isinstance(trunk, PairTrunk | FeatureNetwork):
            raise InputError("trunk", expected="a network of pairs or features", found=type(trunk).__name__)
        n_heads, width = (check_count(sizes[name], f"size {name}") for name in ("n_heads", "width"))
        n_experts = check_count(sizes["n_experts"], "size n_experts", least=0)
        if isinstance(trunk, PairTrunk) and trunk.n_scores != n_heads:
            raise InputError("trunk", expected=f"scores for {n_heads} heads", found=f"{trunk.n_scores}")
        shapes = cls.shapes(trunk.n_outputs, n_heads, width, n_experts)
        check_parameters(parts["parameters"], shapes)  # before there is memory for them
        network = cls(trunk, n_heads, width, n_experts, generator=torch.Generator(device=device))
        of_trunk = {f"trunk.{name}": value for name, value in parameters_as_arrays(trunk).items()}
        return with_parameters(network, {**parts["parameters"], **of_trunk})

    @classmethod
    def shapes(cls, n_outputs: int, n_heads: int, width: int, n_experts: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters above a trunk with this number of outputs."""
        rows, n_inputs = (n_experts or n_heads) * width, n_outputs + cls.n_extra
        shapes: dict[str, tuple[int, ...]] = {
            "hidden": (rows, n_inputs),
            "hidden_bias": (rows,),
            "out": (n_heads, width),
            "out_bias": (n_heads,),
        }
        return shapes | ({"gate": (n_experts * n_heads, n_inputs)} if n_experts else {})


@storable
class HeadModel(nn.Module):
    """Several fitted networks of one kind, and the scaler of features where x holds features.

    Parameters
    ----------
    networks : sequence of HeadNetwork
    scaler : FeatureScaler, optional
        Transformation of features; None for pairs.
    """

    def __init__(self, networks: Sequence[HeadNetwork], scaler: FeatureScaler | None) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.scaler = scaler

    def predict(self, x: NDArray) -> NDArray[np.float64]:
        """Average the probabilities of the networks at rows x; shape (n, number of probabilities)."""
        networks: list[Any] = list(self.networks)
        trunk, device = networks[0].trunk, networks[0].out.device
        if isinstance(trunk, PairTrunk):
            x = check_pairs(x, trunk.n_users, trunk.n_items)
        parts = []
        with torch.no_grad():
            for start in range(0, len(x), ROWS_OF_EMBEDDINGS):
                chunk = x[start : start + ROWS_OF_EMBEDDINGS]
                if self.scaler is None:
                    user, item = torch.tensor(chunk.T.copy(), device=device)
                    columns = user, item
                else:
                    columns = feature_columns(self.scaler, chunk, device)
                parts.append(torch.stack([network.probabilities(*columns) for network in networks]).mean(0))
        return torch.cat(parts).numpy()

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        return {"networks": tuple(self.networks), "scaler": self.scaler}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        scaler, networks = parts["scaler"], parts["networks"]
        if not networks or not isinstance(scaler, FeatureScaler | None):
            raise InputError("networks", expected="some, and a scaler or none", found=f"{len(networks)}")
        shapes = [_shape_of(network) for network in networks]
        expected = shapes[0][:-1] if scaler is None else (FeatureNetwork, scaler.n_numbers, scaler.levels)
        if any(shape != (*expected, *shapes[0][-1:]) for shape in shapes):
            raise InputError("networks", expected="networks of what the scaler gives", found="others")
        if scaler is None and expected[0] is not PairTrunk:
            raise InputError("scaler", expected="one, for networks of features", found="none")
        return cls(networks, scaler)


def _shape_of(network: Any) -> tuple[Any, ...]:
    """Return the kind of a network's trunk, the sizes of its x, and its own kind and number of heads."""
    if not isinstance(network, HeadNetwork):
        raise InputError("network", expected="one with heads", found=type(network).__name__)
    trunk, kind = network.trunk, (type(network), network.n_heads)
    if isinstance(trunk, PairTrunk):
        return PairTrunk, trunk.n_users, trunk.n_items, kind
    return FeatureNetwork, trunk.n_numbers, trunk.levels, kind


def cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """Compute the cross-entropy of each row of a probability given by its logit, shape (n,)."""
    return nn.functional.binary_cross_entropy_with_logits(logit, target, reduction="none")


def product_cross_entropy(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    r"""Compute the cross-entropy of each row of a product of two probabilities given by logits.

    The product is the probability over the entire space: collecting times buying given collecting.
    """
    log_product = nn.functional.logsigmoid(first) + nn.functional.logsigmoid(second)
    # The largest float below 1: at 1 itself the other logarithm would be infinite.
    product = log_product.exp().clamp(max=1 - torch.finfo(log_product.dtype).eps)
    return -(target * log_product + (1 - target) * torch.log1p(-product))

r"""Latent strata of pairs: low-rank logits of the strata, and an assignment that may depend on the response.

For a pair (u, i), stratum z and J scores :math:`f_j = A_{uj} + B_{ij}`, K products
:math:`h_k = U_{uk} V_{ik}` and a score of the assignment :math:`q = P_u + Q_i`,

.. math::
    \log P(z \mid u, i) &= c_z + \sum_j M_{zj} f_j + \sum_k D_{zk} h_k + \text{const}, \\
    \operatorname{logit} P(T=1 \mid z, u, i) &= s_{g(z)} + q + \sum_k E_k h_k .

The scores are shared by the strata, which differ in their contrasts M. The groups g say what the assignment
may depend on (:data:`ASSIGNMENTS`). The likelihood of a row sums over the strata of its cell:
:math:`\sum_z P(z \mid u, i) P(T=t \mid z, u, i)`. Normal priors on all tables make it a posterior mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from cfmtl_lib.checks import check_count, check_flag, check_number
from cfmtl_lib.errors import check_choice
from cfmtl_lib.logs.validation import check_pairs
from cfmtl_lib.models.config import ENGINES, FitConfig
from cfmtl_lib.models.engines import as_trained, compiles
from cfmtl_lib.models.pair_networks import (
    ROWS_OF_EMBEDDINGS,
    check_parameters,
    parameters_as_arrays,
    with_parameters,
)
from cfmtl_lib.runtime.registry import storable
from cfmtl_lib.strata import CELL_MEMBERSHIP, N_TREATED_CELLS, STRATA

ASSIGNMENTS = {"given-x": (0, 0, 0, 0, 0), "given-response": (0, 1, 2, 3, 3)}
"""Groups of strata between which the assignment may differ, in the order of
:data:`~cfmtl_lib.strata.STRATA`. Coupon and always buyers answer an incentive alike, and form one group."""

FIRST_CONTRASTS = ((-0.5, 0.0), (-0.5, 0.0), (0.5, -1.0), (0.5, 0.5), (0.5, 0.5))
"""Contrasts of the strata at the start. The first score tells collectors from others, the second tells which
collectors convert. Products, and contrasts as they are trained, tell coupon and always buyers apart."""

N_SCORES = len(FIRST_CONTRASTS[0])
LEAST_DECAY = 0.02
"""Learning rate of the last epoch, as a share of that of the first."""


FEW_ROWS = 100_000
"""Number of rows below which fits take twice as many passes. On small simulated logs these have the better
held-out likelihood; on ratings in the millions they have the worse."""


@storable
@dataclass(frozen=True)
class LatentConfig:
    r"""Settings of a fit of latent strata.

    Parameters
    ----------
    rank : int
        Number K of products of user and item factors; 0 leaves additive scores only.
    factor_precision, score_precision, assignment_precision, weight_precision : float
        Precisions of the normal priors around 0: of factors U, V; scores A, B; scores of the assignment P, Q;
        weights D, E. More rows outweigh them, so one value serves logs of any size.
    assignment_products : bool, optional
        Whether the assignment has weights E of the products. They make the factors learn what T tells about
        a pair, and take T's part out of the strata. If left out, they do under "given-x" only. Under
        "given-response" the intercepts of the groups are learnt from what an additive score leaves
        unexplained, and products would take that away.
    factor_sd : float
        Standard deviation of the factors at the start.
    learning_rate : float
        Learning rate of Adam in the first epoch; it falls along half a cosine.
    epochs : int
        Number of passes over the log.
    steps : int
        Number of gradient steps in an epoch. A batch is that part of the log, at most 8192 rows.
    engine : {"auto", "torch", "compiled"}
        See :class:`~cfmtl_lib.models.config.FitConfig`.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    rank: int = 64
    factor_precision: float = 20.0
    score_precision: float = 0.4
    assignment_precision: float = 1.2
    weight_precision: float = 0.1
    assignment_products: bool | None = None
    factor_sd: float = 0.1
    learning_rate: float = 0.02
    epochs: int = 10
    steps: int = 150
    engine: str = "auto"

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, [name for name in ENGINES if name != "data-parallel"])
        self._put("rank", check_count, least=0, most=4096)
        for name in ("epochs", "steps"):
            self._put(name, check_count)
        for name in ("factor", "score", "assignment", "weight"):
            self._put(f"{name}_precision", check_number, low=0)
        for name in ("factor_sd", "learning_rate"):
            self._put(name, check_number, low=0, low_open=True)
        if self.assignment_products is not None:
            self._put("assignment_products", check_flag)

    def _put(self, name: str, check: Callable[..., object], **bounds: Any) -> None:
        checked = check(getattr(self, name), f"LatentConfig.{name}", **bounds)
        object.__setattr__(self, name, checked)  # numbers of numpy become those of Python

    @classmethod
    def for_rows(cls, n_rows: int) -> Self:
        """Return the default settings for a log of this many rows.

        Examples
        --------
        >>> LatentConfig.for_rows(1_000_000).epochs, LatentConfig.for_rows(10_000).epochs
        (10, 20)
        """
        return cls(epochs=20) if n_rows < FEW_ROWS else cls()

    def fit_config(self, n_rows: int) -> FitConfig:
        """Return the settings that the training loop needs, for a log of this many rows."""
        return FitConfig(
            learning_rate=self.learning_rate,
            weight_decay=0.0,  # the priors are part of the loss
            batch_size=max(1, min(8192, -(-n_rows // self.steps))),
            max_epochs=self.epochs,
            engine=self.engine,
        )

    def schedule(self, epoch: int) -> float:
        """Return the factor on the learning rate in an epoch, which counts from 0.

        Examples
        --------
        >>> [round(LatentConfig(epochs=2).schedule(epoch), 2) for epoch in (0, 1)]
        [1.0, 0.51]
        """
        return LEAST_DECAY + (1 - LEAST_DECAY) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


@storable
class LatentNetwork(nn.Module):
    """Strata and assignment of pairs, with the likelihood of the observed rows as its loss.

    Parameters
    ----------
    n_users, n_items : int
        Sizes of the two tables.
    config : LatentConfig
    assignment : {"given-x", "given-response"}
    n_rows : int
        Number of rows of the log, which the priors are weighed against.
    generator : torch.Generator
        Source of the initial values; the tables are created on its device.
    dtype : torch.dtype
        Type of the parameters.

    Attributes
    ----------
    user, item : Parameter of shape (n_users, J + 1 + K) and (n_items, J + 1 + K)
        A, P, U side by side, and B, Q, V.
    intercept : Parameter of shape (5,)
    contrast : Parameter of shape (5, J)
    weight : Parameter of shape (6, K)
        D, and E in the last row.
    selection : Parameter of shape (n_groups,)
        Intercepts s of the assignment.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: LatentConfig,
        assignment: str,
        *,
        n_rows: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items, self.config, self.n_rows = n_users, n_items, config, n_rows
        self.assignment = assignment
        groups = ASSIGNMENTS[check_choice("assignment", assignment, ASSIGNMENTS)]
        device = generator.device

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

        def table(rows: int) -> nn.Parameter:
            scores = torch.zeros(rows, N_SCORES + 1, device=device, dtype=dtype)
            return nn.Parameter(torch.cat([scores, normal(rows, config.rank) * config.factor_sd], dim=1))

        self.user, self.item = table(n_users), table(n_items)
        weight = normal(len(STRATA) + 1, config.rank)
        if not self.has_assignment_products:
            weight[-1] = 0
        self.weight = nn.Parameter(weight)
        self.contrast = nn.Parameter(weight.new_tensor(FIRST_CONTRASTS))
        self.intercept = nn.Parameter(weight.new_zeros(len(STRATA)))
        self.selection = nn.Parameter(weight.new_zeros(max(groups) + 1))
        self.group: Tensor
        self.decay: Tensor
        self.elsewhere: Tensor
        precision = [config.score_precision] * N_SCORES + [config.assignment_precision]
        precision += [config.factor_precision] * config.rank
        for name, value in (
            ("group", torch.tensor(groups, device=device)),
            ("decay", weight.new_tensor(precision) / n_rows),
            ("elsewhere", torch.tensor(CELL_MEMBERSHIP == 0, device=device)),
        ):
            self.register_buffer(name, value, persistent=False)

    @property
    def has_assignment_products(self) -> bool:
        """True if the assignment has products; see :class:`LatentConfig`."""
        given = self.config.assignment_products
        return self.assignment == "given-x" if given is None else given

    def _log_strata_and_arm(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(z | pair), and the logit of T given z, each of shape (n, 5)."""
        of_user, of_item = self.user.index_select(0, user), self.item.index_select(0, item)
        additive = of_user[:, : N_SCORES + 1] + of_item[:, : N_SCORES + 1]
        products = of_user[:, N_SCORES + 1 :] * of_item[:, N_SCORES + 1 :]
        scores, assignment = additive[:, :N_SCORES], additive[:, N_SCORES]
        by_product = products @ self._trained_weight().T
        logits = self.intercept + scores @ self.contrast.T + by_product[:, :-1]
        arm = self.selection[self.group] + (assignment + by_product[:, -1])[:, None]
        return torch.log_softmax(logits, dim=1), arm

    def _trained_weight(self) -> Tensor:
        if self.has_assignment_products:
            return self.weight
        return torch.cat([self.weight[:-1], self.weight[-1:].detach()])

    def loss(self, user: Tensor, item: Tensor, cell: Tensor) -> Tensor:
        """Compute the mean negative log-likelihood of a batch, plus the priors divided by the log's rows."""
        log_strata, arm = self._log_strata_and_arm(user, item)
        sign = 2.0 * (cell < N_TREATED_CELLS).to(arm.dtype)[:, None] - 1.0
        joint = log_strata + nn.functional.logsigmoid(sign * arm)
        joint = joint.masked_fill(self.elsewhere[cell.long()], -torch.inf)
        return -torch.logsumexp(joint, dim=1).mean() + self.penalty()

    def penalty(self) -> Tensor:
        """Compute the negative logarithm of the priors, up to a constant, divided by the log's rows."""
        tables = (self.user.square().sum(0) + self.item.square().sum(0)) @ self.decay
        weights = self._trained_weight().square().sum() * (self.config.weight_precision / self.n_rows)
        return (tables + weights) / 2

    def predict(self, part: str, x: ArrayLike) -> NDArray[np.float64]:
        """Predict probabilities of the "strata", (n, 5), or of the "propensity", (n,), at pairs x.

        Raises
        ------
        LogError
            If an id lies outside the tables.
        """
        strata, treated = self.joint(x)
        return strata if part == "strata" else (strata * treated).sum(axis=1)

    def joint(self, x: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute P(z | pair) and P(T=1 | z, pair), each of shape (n, 5), float64."""
        pairs = torch.from_numpy(check_pairs(x, self.n_users, self.n_items).copy())
        strata, treated = [], []
        with torch.no_grad():
            for chunk in pairs.split(ROWS_OF_EMBEDDINGS):
                rows = (column.to(self.user.device) for column in chunk.T)
                # float64 after the copy: not every accelerator has it.
                log_strata, arm = (value.cpu().double() for value in self._log_strata_and_arm(*rows))
                strata.append(torch.softmax(log_strata, dim=1))
                treated.append(torch.sigmoid(arm))
        return torch.cat(strata).numpy(), torch.cat(treated).numpy()

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        sizes = {"n_users": self.n_users, "n_items": self.n_items, "n_rows": self.n_rows}
        return {
            "sizes": sizes,
            "config": self.config,
            "assignment": self.assignment,
            "parameters": parameters_as_arrays(self),
        }

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: torch.device) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        sizes = {name: check_count(value, f"size {name}") for name, value in parts["sizes"].items()}
        config, assignment = parts["config"], parts["assignment"]
        groups = ASSIGNMENTS[check_choice("assignment", assignment, ASSIGNMENTS)]
        width = N_SCORES + 1 + config.rank
        shapes = {
            "user": (sizes["n_users"], width),
            "item": (sizes["n_items"], width),
            "weight": (len(STRATA) + 1, config.rank),
            "contrast": (len(STRATA), N_SCORES),
            "intercept": (len(STRATA),),
            "selection": (max(groups) + 1,),
        }
        check_parameters(parts["parameters"], shapes)  # before there is memory for them
        dtype = getattr(torch, parts["parameters"]["user"].dtype.name)
        generator = torch.Generator(device=device)
        network = cls(config=config, assignment=assignment, generator=generator, dtype=dtype, **sizes)
        return with_parameters(network, parts["parameters"])


@compiles(LatentNetwork)
def _latent_epoch(network: LatentNetwork, objective: Any) -> Callable[..., None]:
    from cfmtl_lib.models import latent_kernels

    decay = network.decay.numpy()
    model = latent_kernels.Latent(
        as_trained(network.user),
        as_trained(network.item),
        as_trained(network.intercept),
        as_trained(network.contrast),
        as_trained(network.weight),
        as_trained(network.selection),
        network.group.numpy(),
        decay,
        decay.dtype.type(network.config.weight_precision / network.n_rows),
        network.has_assignment_products,
    )
    return lambda user, item, cell, size, *rest: latent_kernels.latent_epoch(
        model, user, item, cell, size, *rest
    )

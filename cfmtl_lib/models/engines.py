"""Gradient steps on batches: by autograd on any device, by processes together, or compiled on a CPU.

The plain path is PyTorch: it runs on every device, fits every network, and defines what a fit is. Where numba
is installed (``pip install numba``, or the extra ``fast``), networks of pairs on a CPU take their steps in
:mod:`cfmtl_lib.models.kernels`; tests hold both against each other.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from cfmtl_lib.errors import InputError
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.losses import CellNetwork, ProbabilityLoss
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.runtime.devices import numba_version

Objective = Callable[..., Tensor]
"""Takes one batch of each column, returns the scalar loss of the batch."""


class Steps(Protocol):
    """Something that trains on consecutive batches of columns."""

    def prepared(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """Columns checked and in the types that a step works on, once for all epochs."""
        ...

    def __call__(self, columns: Sequence[Tensor], batch_size: int, learning_rate: float) -> list[float]:
        """Take a step on each batch of prepared columns, the last one perhaps smaller; the loss of each."""
        ...


class AutogradSteps:
    """The plain path: autograd and torch's Adam.

    Parameters
    ----------
    network : torch.nn.Module
        Its parameters that want a gradient are trained.
    objective : callable
    config : FitConfig
    """

    def __init__(self, network: nn.Module, objective: Objective, config: FitConfig) -> None:
        self.objective = objective
        parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(
            parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=parameters[0].device.type in ("cpu", "cuda"),
        )

    def prepared(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """The columns as they are."""
        return list(columns)

    def __call__(self, columns: Sequence[Tensor], batch_size: int, learning_rate: float) -> list[float]:
        """See :class:`Steps`."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        losses = []
        # Laid out beforehand, a batch is a view and a step gathers nothing but parameters.
        for batch in zip(*(column.split(batch_size) for column in columns), strict=True):
            self.optimiser.zero_grad(set_to_none=True)
            loss = self._loss(batch)
            loss.backward()
            self.optimiser.step()
            losses.append(loss.detach())
        return self._reported(torch.stack(losses)).tolist()  # the only wait for the device

    def _loss(self, batch: Sequence[Tensor]) -> Tensor:
        return self.objective(*batch)

    def _reported(self, losses: Tensor) -> Tensor:
        return losses


class DataParallelSteps(AutogradSteps):
    """The plain path, shared by the processes that ``torchrun`` started.

    Every process has the same rows in the same order and takes its part of each batch;
    ``DistributedDataParallel`` averages their gradients. Losses and parameters are those of one process on
    the same batches, to rounding.

    Parameters
    ----------
    network, objective, config
        As in :class:`AutogradSteps`; the objective is a :class:`ProbabilityLoss`, or the loss of the network.

    Raises
    ------
    InputError
        If no processes were started together, fits run side by side in threads, or the objective is neither a
        mean nor a sum over rows.
    """

    def __init__(self, network: nn.Module, objective: Objective, config: FitConfig) -> None:
        if not _is_own_loss(network, objective):
            raise InputError(
                "FitConfig.engine 'data-parallel'",
                expected="a loss of the paper, whose parts add up to that of a batch",
                found="another loss",
                advice="Use engine='torch'.",
            )
        if threading.current_thread() is not threading.main_thread():
            raise InputError(
                "FitConfig.engine 'data-parallel'",
                expected="one fit at a time, as processes meet in the order of their fits",
                found="a fit in a thread of its own",
                advice="Use n_jobs=1.",
            )
        super().__init__(network, objective, config)
        _join_processes(next(network.parameters()).device)
        self.rank, self.n_processes = dist.get_rank(), dist.get_world_size()
        self.is_mean = isinstance(objective, ProbabilityLoss)
        self.objective = nn.parallel.DistributedDataParallel(
            _Objective(network, objective), broadcast_buffers=False
        )

    def _loss(self, batch: Sequence[Tensor]) -> Tensor:
        n = len(batch[0])
        if n < self.n_processes:  # each takes the whole
            return self.objective(*batch)
        part = [column.tensor_split(self.n_processes)[self.rank] for column in batch]
        # DDP takes the mean over processes; weighted so, it is the gradient of the batch.
        weight = self.n_processes * (len(part[0]) / n if self.is_mean else 1.0)
        return self.objective(*part) * weight

    def _reported(self, losses: Tensor) -> Tensor:
        dist.all_reduce(losses)
        return losses / self.n_processes


class _Objective(nn.Module):
    """A network and its objective as one module, as ``DistributedDataParallel`` wants it."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, *batch: Tensor) -> Tensor:
        return self.objective(*batch)


def _join_processes(device: torch.device) -> None:
    """Meet the other processes, once."""
    if dist.is_initialized():
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise InputError(
            "FitConfig.engine 'data-parallel'",
            expected="processes that torchrun started together",
            found="a process by itself",
            advice="Start the script by: torchrun --nproc-per-node 2 SCRIPT.py",
        )
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)


class CompiledSteps:
    """The compiled path; trains the same parameters in place.

    Parameters
    ----------
    network : AdditiveNetwork, FactorizationNetwork or CellNetwork
        On the CPU.
    objective : callable
        A :class:`ProbabilityLoss`, or the loss of the network.
    config : FitConfig
    """

    def __init__(self, network: nn.Module, objective: Objective, config: FitConfig) -> None:
        from cfmtl_lib.models import kernels  # here, for numba need not be installed

        self.kernels, self.config = kernels, config
        self.n_steps = 0
        self.dtype = next(network.parameters()).dtype
        of_pairs = COMPILED[type(network)].parts(network)[0]
        self.sizes = of_pairs.n_users, of_pairs.n_items
        self._run = COMPILED[type(network)].bind(network, objective)

    def prepared(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """Ids in 32 bits, which move faster; the last column in the type of the parameters, or int8."""
        user, item, last = columns
        for name, ids, size in (("user", user, self.sizes[0]), ("item", item, self.sizes[1])):
            low, high = (int(end) for end in torch.aminmax(ids)) if len(ids) else (0, 0)
            if low < 0 or high >= size:  # compiled loops do not look
                raise InputError(f"{name} ids", expected=f"0 to {size - 1}", found=f"{low} to {high}")
        kind = self.dtype if last.dtype.is_floating_point else torch.int8
        return [user.to(torch.int32), item.to(torch.int32), last.to(kind)]

    def __call__(self, columns: Sequence[Tensor], batch_size: int, learning_rate: float) -> list[float]:
        """See :class:`Steps`."""
        user, item, last = (column.numpy() for column in columns)
        losses = np.empty(-(-len(user) // batch_size))
        adam = self.kernels.Adam(self.n_steps, float(learning_rate), float(self.config.weight_decay))
        self._run(user, item, last, batch_size, adam, losses)
        self.n_steps += len(losses)
        return losses.tolist()


class CompiledFit(NamedTuple):
    """How fits of one class of networks are compiled.

    Attributes
    ----------
    parts : callable
        Takes the network, returns the networks of pairs inside, which all have the same users and items.
    knows : callable
        Takes the network and an objective, returns whether the compiled loss is that objective.
    bind : callable
        Takes both, returns the epoch: a function of user, item, last column, batch size, Adam and losses.
    """

    parts: Callable[[Any], list[Any]]
    knows: Callable[[Any, Objective], bool]
    bind: Callable[[Any, Any], Callable[..., None]]


COMPILED: dict[type[nn.Module], CompiledFit] = {}
"""What the compiled engine can do, by the exact class of the network: a subclass may compute otherwise."""


def compiles(
    network: type[nn.Module],
    *,
    parts: Callable[[Any], list[Any]] = lambda network: [network],
    knows: Callable[[Any, Objective], bool],
) -> Callable[[Callable], Callable]:
    """Register the epoch of a class of networks with the compiled engine; see :class:`CompiledFit`."""

    def register(bind: Callable) -> Callable:
        COMPILED[network] = CompiledFit(parts, knows, bind)
        return bind

    return register


def _is_own_loss(network: nn.Module, objective: Objective) -> bool:
    """Whether the objective is a loss of one probability by this network, or the network's own loss."""
    if isinstance(objective, ProbabilityLoss):
        return objective.network is network
    return type(network) is CellNetwork and objective == network.loss


@compiles(AdditiveNetwork, knows=_is_own_loss)
def _additive_epoch(network: AdditiveNetwork, objective: ProbabilityLoss) -> Callable[..., None]:
    from cfmtl_lib.models import kernels

    trained, cross_entropy = _additive(network), objective.loss == "cross_entropy"
    return lambda user, item, target, size, *rest: kernels.additive_epoch(
        trained, user, item, target, size, cross_entropy, *rest
    )


@compiles(FactorizationNetwork, knows=_is_own_loss)
def _factorisation_epoch(network: FactorizationNetwork, objective: ProbabilityLoss) -> Callable[..., None]:
    from cfmtl_lib.models import kernels

    tables, cross_entropy = (
        (_trained(network.user), _trained(network.item)),
        objective.loss == "cross_entropy",
    )
    return lambda user, item, target, size, *rest: kernels.factorisation_epoch(
        *tables, user, item, target, size, cross_entropy, *rest
    )


@compiles(
    CellNetwork,
    parts=lambda network: [network.strata, network.propensity],
    knows=_is_own_loss,
)
def _cells_epoch(network: CellNetwork, objective: Objective) -> Callable[..., None]:
    from cfmtl_lib.models import cell_kernels

    strata, propensity = (_additive(network.pair_network(part)) for part in ("strata", "propensity"))
    weights = network.cell_weight.numpy().ravel()
    number = weights.dtype.type
    settings = (weights, number(network.propensity_floor), number(network.propensity_weight))
    return lambda user, item, cell, size, *rest: cell_kernels.cells_epoch(
        strata, propensity, user, item, cell, size, settings, *rest
    )


def _additive(network: AdditiveNetwork) -> Any:
    from cfmtl_lib.models import kernels

    user, item, weight, bias = map(_trained, (network.user, network.item, network.weight, network.bias))
    return kernels.Additive(user, item, weight, bias, not network.weight.requires_grad)


def _trained(parameter: nn.Parameter) -> Any:
    """Give the parameter as an array that shares its memory, with moments at zero."""
    from cfmtl_lib.models import kernels

    value: NDArray = np.atleast_2d(parameter.detach().numpy())
    return kernels.Trained(value, np.zeros_like(value), np.zeros_like(value))


def steps_for(network: nn.Module, objective: Objective, config: FitConfig) -> Steps:
    """How ``config.engine`` wants this fit done.

    Raises
    ------
    InputError
        If the compiled engine is asked for and cannot do it.
    """
    if config.engine == "torch":
        return AutogradSteps(network, objective, config)
    if config.engine == "data-parallel":
        return DataParallelSteps(network, objective, config)
    obstacle = _obstacle(network, objective)
    if obstacle is None:
        return CompiledSteps(network, objective, config)
    if config.engine == "compiled":
        raise InputError(
            "FitConfig.engine 'compiled'",
            expected="numba, and a network of pairs on the CPU, all of it trained by a loss of the paper",
            found=obstacle,
            advice="Use engine='auto', or install numba: pip install numba.",
        )
    return AutogradSteps(network, objective, config)


def _obstacle(network: nn.Module, objective: Objective) -> str | None:
    """Why the compiled path cannot take these steps; None if it can."""
    if numba_version() is None:
        return "no numba"
    known = COMPILED.get(type(network))
    if known is None:
        return f"a {type(network).__name__}"
    if not known.knows(network, objective):
        return "another loss"
    for part in known.parts(network):
        if type(part) not in COMPILED:
            return f"a {type(part).__name__}"
        if part.user.device.type != "cpu" or part.user.dtype not in (torch.float32, torch.float64):
            return f"parameters of {part.user.dtype} on {part.user.device}"
        if not (part.user.requires_grad and part.item.requires_grad):
            return "embeddings that are held still"
        if isinstance(part, AdditiveNetwork) and not _layer_is_known(part):
            return "a layer that is held still"
    return None


def _layer_is_known(network: AdditiveNetwork) -> bool:
    """Whether its layer is trained, or adds up embeddings that are the parts of the logits themselves."""
    if network.weight.requires_grad:
        return network.bias.requires_grad
    one = torch.eye(network.embedding_k, dtype=network.weight.dtype)
    return network.bias.requires_grad and torch.equal(network.weight, torch.cat([one, one], dim=1))

"""Gradient steps on batches: by autograd on any device, by processes together, or compiled on a CPU.

The PyTorch engine runs on every device, fits every network, and defines what a fit is. The compiled engine
takes the steps of networks of pairs on a CPU (:mod:`cfmtl_lib.models.kernels`). It needs numba
(``pip install numba``, or the extra ``fast``). Tests compare the two engines.
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
"""Function of one batch of each column that returns the scalar loss of the batch."""


class Steps(Protocol):
    """Engine that trains on consecutive batches of columns.

    Attributes
    ----------
    engine : str
        Name of the engine, with all that its rounding depends on, for provenance.
    """

    engine: str

    def prepared(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """Check columns and convert them to the types that a step needs, once for all epochs."""
        ...

    def __call__(self, columns: Sequence[Tensor], batch_size: int, learning_rate: float) -> list[float]:
        """Take a step on each batch of prepared columns and return its loss; the last may be smaller."""
        ...


class AutogradSteps:
    """PyTorch engine: autograd and torch's Adam.

    Parameters
    ----------
    network : torch.nn.Module
        Network whose parameters that require a gradient are trained.
    objective : callable
    config : FitConfig
    """

    def __init__(self, network: nn.Module, objective: Objective, config: FitConfig) -> None:
        self.objective = objective
        parameters = [p for p in network.parameters() if p.requires_grad]
        self.engine = f"autograd{_threads(parameters[0].device)}"
        self.optimiser = torch.optim.Adam(
            parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=parameters[0].device.type in ("cpu", "cuda"),
        )

    def prepared(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """Return the columns unchanged."""
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
    """PyTorch engine, shared by the processes that ``torchrun`` started.

    Every process has the same rows in the same order and takes its part of each batch.
    ``DistributedDataParallel`` averages their gradients. Losses and parameters are those of one process on
    the same batches, to rounding.

    Parameters
    ----------
    network, objective, config
        See :class:`AutogradSteps`; the objective is a :class:`ProbabilityLoss`, or the loss of the network.

    Raises
    ------
    InputError
        If no processes were started together, fits run in threads, or the objective is neither a mean nor a
        sum over rows.
    """

    def __init__(self, network: nn.Module, objective: Objective, config: FitConfig) -> None:
        is_mean = isinstance(objective, ProbabilityLoss)
        # Another network's loss may be neither a mean nor a sum over rows.
        if not _is_own_loss(network, objective) or not (is_mean or type(network) is CellNetwork):
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
        self.is_mean = is_mean
        self.engine = (
            f"data-parallel, {self.n_processes} processes{_threads(next(network.parameters()).device)}"
        )
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
    """Network and objective as one module, as ``DistributedDataParallel`` expects."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, *batch: Tensor) -> Tensor:
        return self.objective(*batch)


def _threads(device: torch.device) -> str:
    """Describe the threads of torch, which decide how sums on a CPU are rounded."""
    if device.type != "cpu":
        return f" on {device.type}"
    count = torch.get_num_threads()
    return f", {count} thread{'' if count == 1 else 's'}"


def _join_processes(device: torch.device) -> None:
    """Join the other processes, once."""
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
    """Compiled engine; it trains the same parameters in place.

    Parameters
    ----------
    network : AdditiveNetwork, FactorizationNetwork or CellNetwork
        Network on the CPU.
    objective : callable
        :class:`ProbabilityLoss`, or the loss of the network.
    config : FitConfig
    """

    def __init__(self, network: nn.Module, objective: Objective, config: FitConfig) -> None:
        from cfmtl_lib.models import kernels  # here, for numba need not be installed

        self.kernels, self.config = kernels, config
        self.engine = f"compiled, numba {numba_version()}"
        self.n_steps = 0
        self.dtype = next(network.parameters()).dtype
        of_pairs = COMPILED[type(network)].parts(network)[0]
        self.sizes = of_pairs.n_users, of_pairs.n_items
        self._run = COMPILED[type(network)].bind(network, objective)

    def prepared(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """Convert ids to 32 bits, for speed, and the last column to the type of the parameters, or int8."""
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
    """Compiled fits of one class of networks.

    Attributes
    ----------
    parts : callable
        Function of the network that returns its networks of pairs, all with the same users and items.
    bind : callable
        Function of the network and its loss that returns the epoch: a function of user, item, last column,
        batch size, Adam and losses.
    """

    parts: Callable[[Any], list[Any]]
    bind: Callable[[Any, Any], Callable[..., None]]


COMPILED: dict[type[nn.Module], CompiledFit] = {}
"""Compiled fits by the exact class of the network, as a subclass may compute otherwise."""


def compiles(
    network: type[nn.Module], parts: Callable[[Any], list[Any]] = lambda network: [network]
) -> Callable[[Callable], Callable]:
    """Register the epoch of a class of networks with the compiled engine; see :class:`CompiledFit`."""

    def register(bind: Callable) -> Callable:
        COMPILED[network] = CompiledFit(parts, bind)
        return bind

    return register


def _is_own_loss(network: nn.Module, objective: Objective) -> bool:
    """Return whether the objective is a loss of one probability by this network, or its own loss."""
    if isinstance(objective, ProbabilityLoss):
        return objective.network is network
    return objective == getattr(network, "loss", None)


@compiles(AdditiveNetwork)
def _additive_epoch(network: AdditiveNetwork, objective: ProbabilityLoss) -> Callable[..., None]:
    from cfmtl_lib.models import kernels

    trained, cross_entropy = _additive(network), objective.loss == "cross_entropy"
    return lambda user, item, target, size, *rest: kernels.additive_epoch(
        trained, user, item, target, size, cross_entropy, *rest
    )


@compiles(FactorizationNetwork)
def _factorisation_epoch(network: FactorizationNetwork, objective: ProbabilityLoss) -> Callable[..., None]:
    from cfmtl_lib.models import kernels

    tables = as_trained(network.user), as_trained(network.item)
    cross_entropy = objective.loss == "cross_entropy"
    return lambda user, item, target, size, *rest: kernels.factorisation_epoch(
        *tables, user, item, target, size, cross_entropy, *rest
    )


@compiles(CellNetwork, parts=lambda network: [network.strata, network.propensity])
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

    user, item, weight, bias = map(as_trained, (network.user, network.item, network.weight, network.bias))
    return kernels.Additive(user, item, weight, bias, not network.weight.requires_grad)


def as_trained(parameter: nn.Parameter) -> Any:
    """Return the parameter as an array that shares its memory, with moments at zero."""
    from cfmtl_lib.models import kernels

    value: NDArray = np.atleast_2d(parameter.detach().numpy())
    return kernels.Trained(value, np.zeros_like(value), np.zeros_like(value))


def steps_for(network: nn.Module, objective: Objective, config: FitConfig) -> Steps:
    """Choose the engine of a fit by ``config.engine``.

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


def engine_of_pairs(config: FitConfig, device: torch.device) -> str:
    """Name the engine that fits the library's networks of pairs, to tell stored fits apart.

    Examples
    --------
    >>> engine_of_pairs(FitConfig(engine="torch"), torch.device("cpu"))
    'torch'
    """
    if config.engine in ("torch", "data-parallel"):
        return config.engine
    compiled = config.engine == "compiled" or (device.type == "cpu" and numba_version() is not None)
    return f"compiled, numba {numba_version()}" if compiled else "torch"


def _obstacle(network: nn.Module, objective: Objective) -> str | None:
    """Return why the compiled engine cannot take these steps; None if it can."""
    if numba_version() is None:
        return "no numba"
    known = COMPILED.get(type(network))
    if known is None:
        return f"a {type(network).__name__}"
    if not _is_own_loss(network, objective):
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
    """Return whether the layer is trained, or only adds up embeddings that are parts of the logits."""
    if network.weight.requires_grad:
        return network.bias.requires_grad
    one = torch.eye(network.embedding_k, dtype=network.weight.dtype)
    return network.bias.requires_grad and torch.equal(network.weight, torch.cat([one, one], dim=1))

"""Fit of several networks with a loss of their own to one log, each with its own validation set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from cfmtl_lib.checks import check_number
from cfmtl_lib.estimators.cells.backend import held_out_rows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.batches import RowSource
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.engines import Objective
from cfmtl_lib.models.feature_networks import FeatureConfig
from cfmtl_lib.models.training import derive_generator, minimise
from cfmtl_lib.runtime.threads import one_torch_thread
from cfmtl_lib.strata import CELLS

Network = TypeVar("Network", bound=nn.Module)

SHORT_FIT = FitConfig(
    loss="cross_entropy",
    embedding_k=16,
    embedding_sd=0.1,
    learning_rate=1e-2,
    weight_decay=1e-5,
    batch_size=8192,
    tolerance=1e-4,
    patience=2,
    max_epochs=30,
    keep_last_batch=True,
    validation_share=0.1,
    learning_rate_decay=0.7,
)
"""Settings of a few passes over a large log, with a learning rate that decays."""

ON_FEATURES = FeatureConfig(fit=replace(FeatureConfig().fit, weight_decay=1e-3))
"""Settings for features; the decay has the least held-out loss on simulated campaigns of 10,000 rows."""

ON_MANY_ROWS = FeatureConfig(n_networks=1, fit=replace(SHORT_FIT, batch_size=4096))
"""Settings for many rows of features: one network, a few passes."""

MANY_ROWS = 200_000
"""Number of rows from which these are the default."""


LARGEST_WEIGHT = 1e6
"""Largest weight of a term of a loss; single precision has no sums of terms much further apart."""


def check_weight(value: object, subject: str) -> float:
    """Return the weight of a term of a loss as a float, from 0 to :data:`LARGEST_WEIGHT`.

    Raises
    ------
    InputError
        If it is anything else.
    """
    return check_number(value, subject, low=0, high=LARGEST_WEIGHT)


def default_feature_config(n_rows: int) -> FeatureConfig:
    """Return the default settings of networks with heads for a log of features.

    Examples
    --------
    >>> default_feature_config(1000).n_networks, default_feature_config(1_000_000).n_networks
    (4, 1)
    """
    return ON_MANY_ROWS if n_rows >= MANY_ROWS else ON_FEATURES


@dataclass(frozen=True)
class NetworkTask(Generic[Network]):
    """What is fitted, and how.

    Attributes
    ----------
    name : str
        Name in messages, and in the purpose that random numbers are derived from.
    make : callable
        Function of a generator that makes a new network on its device.
    objective : callable
        Function of a network that returns the loss of a batch, itself a function of the columns.
    config : FitConfig
    n_networks : int
    device : torch.device
    seed : int
    progress : bool
        Whether to report progress on stderr.
    """

    name: str
    make: Callable[[torch.Generator], Network]
    objective: Callable[[Network], Objective]
    config: FitConfig
    n_networks: int
    device: torch.device
    seed: int
    progress: bool


@one_torch_thread()  # steps this small gain nothing from two, and lose much where others compute
def fit_networks(
    task: NetworkTask[Network], log: IncentiveLog | ParquetLog, columns: Sequence[Tensor] | RowSource
) -> tuple[list[Network], dict[str, History]]:
    """Fit the networks of a task; whole clusters of the log are held out where it has any.

    Parameters
    ----------
    task : NetworkTask
    log : IncentiveLog or ParquetLog
    columns : sequence of Tensor, each of shape (n, ...), or RowSource
        Rows of the log as the objective takes them, on the device of the task.

    Returns
    -------
    list of Module, dict of str to History
        Networks, and the training curve of each.

    Raises
    ------
    InputError
        If rows are to be held out of a log that is read from files.
    """
    networks: list[Network] = []
    histories: dict[str, History] = {}
    for k in range(task.n_networks):
        network = task.make(derive_generator(task.seed, f"{task.name} {k}", task.device))
        held_out = None  # minimise refuses to hold out rows of files
        if isinstance(log, IncentiveLog):
            held_out = held_out_rows(log, task.config.validation_share, task.seed, k)
        histories[f"network {k}"] = minimise(
            network,
            task.objective(network),
            columns,
            task.config,
            generator=derive_generator(task.seed, f"{task.name} batches {k}", task.device),
            label=f"{task.name} {k + 1} of {task.n_networks}",
            progress=task.progress,
            held_out=held_out,
        )
        networks.append(network)
    return networks, histories


class CellColumns(nn.Module):
    """Map from the observed cell of each row to T, C and Y."""

    tcy: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.register_buffer(
            "tcy", torch.tensor(CELLS, dtype=torch.float32, device=device).T.contiguous(), persistent=False
        )

    def forward(self, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return T, C and Y, each of shape (n,), 0 or 1; ``cell`` is an index into ``CELLS``."""
        t, c, y = self.tcy.index_select(1, cell.int()).unbind(0)
        return t, c, y

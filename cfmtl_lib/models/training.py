"""Training loop of all networks: epochs of mini-batch Adam with the stopping rule of the authors' code."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from cfmtl_lib.checks import check_seed
from cfmtl_lib.errors import InputError
from cfmtl_lib.models.batches import InMemory, RowSource
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.engines import Objective, steps_for
from cfmtl_lib.models.losses import ProbabilityLoss
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.runtime.engine_log import note_engines
from cfmtl_lib.runtime.progress import track


def derive_generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """Make a random generator for one purpose, independent of what else was fitted before.

    So a fit gets the same random numbers alone and among others.
    """
    words = np.random.SeedSequence([check_seed(seed), zlib.crc32(purpose.encode())]).generate_state(
        2, np.uint32
    )
    generator = torch.Generator(device=device)
    generator.manual_seed((int(words[0]) << 31) ^ int(words[1]))
    return generator


Network = TypeVar("Network", AdditiveNetwork, FactorizationNetwork)


def new_network(
    kind: type[Network],
    pair_space: tuple[int, int],
    config: FitConfig,
    *,
    generator: torch.Generator,
    **sizes: Any,
) -> Network:
    """Make a network of pairs with the sizes and in the parametrisation of ``config``.

    Parameters
    ----------
    kind : type
        AdditiveNetwork or FactorizationNetwork.
    pair_space : (int, int)
        Number of users and of items.
    config : FitConfig
    generator : torch.Generator
        Source of the initial values; decides the device.
    **sizes
        Further arguments of ``kind``.
    """
    network = kind(
        *pair_space, config.embedding_k, generator=generator, embedding_sd=config.embedding_sd, **sizes
    )
    return parametrised(network, config)


def parametrised(network: Network, config: FitConfig) -> Network:
    """Return the same function, with the trained parameters that ``config`` names."""
    if config.parametrisation == "embeddings" or not isinstance(network, AdditiveNetwork):
        return network
    small = network.compact()
    small.weight.requires_grad_(False)
    return small  # type: ignore[return-value]  # mypy: one of the two


def minimise(
    network: nn.Module,
    objective: Objective,
    columns: Sequence[Tensor] | RowSource,
    config: FitConfig,
    *,
    generator: torch.Generator,
    label: str,
    progress: bool = False,
    held_out: NDArray[np.bool_] | None = None,
    after_epoch: Callable[[History], None] | None = None,
    schedule: Callable[[int], float] | None = None,
) -> History:
    """Minimise ``objective(*batch of columns)`` over the trainable parameters of ``network``.

    Parameters
    ----------
    network : torch.nn.Module
        Network, trained in place.
    objective : callable
        Function of one batch of each column that returns the scalar loss of the batch.
    columns : sequence of Tensor, each of shape (n, ...), or RowSource
        Data, on the device of the network.
    config : FitConfig
    generator : torch.Generator
        Generator that shuffles the rows, on the same device.
    label : str
        Name of the fit in messages.
    progress : bool
        Whether to report progress on stderr.
    held_out : ndarray of shape (n,), bool, optional
        Validation set, for early stopping only; drawn where ``config`` asks for a share and none is given.
    after_epoch : callable, optional
        Function called with the history so far, to inspect the network during training.
    schedule : callable, optional
        Factor on the learning rate by the epoch, from 0. With it, training runs for ``config.max_epochs``
        epochs, and nothing stops it before.

    Returns
    -------
    History

    Raises
    ------
    InputError
        If the engine asked for cannot train the network, or a validation set is not in memory.
    FloatingPointError
        If the loss is no longer finite.
    """
    watched: _Watched | None = None
    if held_out is not None or config.validation_share > 0:
        if isinstance(columns, RowSource):
            raise InputError(
                "FitConfig.validation_share",
                expected="0 for a log that is read from files",
                found=repr(config.validation_share) if held_out is None else "rows held out",
                advice="Stop on the training loss, as the paper does, or load the log into memory.",
            )
        kept, aside = _two_parts(len(columns[0]), held_out, config.validation_share, generator)
        of_these = [column.index_select(0, aside) for column in columns]
        watched = _Watched(network, objective, of_these, config.tolerance)
        columns = [column.index_select(0, kept) for column in columns]
    take_steps = steps_for(network, objective, config)
    in_parts = isinstance(columns, RowSource)
    source = columns if isinstance(columns, RowSource) else InMemory(take_steps.prepared(columns))
    batch_size = min(config.batch_size, len(source))
    history = History(engine=take_steps.engine)
    note_engines([history.engine])
    n_stalled = 0
    with _denormals_as_zero():
        for epoch in track(count(), total=None, label=label, enabled=progress):
            factor = config.learning_rate_decay**epoch if schedule is None else schedule(epoch)
            learning_rate = config.learning_rate * factor
            losses: list[float] = []
            for chunk in source.epoch(batch_size, config.keep_last_batch, generator):
                rows = take_steps.prepared(chunk) if in_parts else chunk
                losses += take_steps(rows, batch_size, learning_rate)
            epoch_loss = math.fsum(losses)
            if not math.isfinite(epoch_loss):
                raise FloatingPointError(
                    f"{label}: the training loss is {epoch_loss} in epoch {history.n_epochs + 1}. "
                    f"Lower FitConfig.learning_rate (now {config.learning_rate})."
                )
            if watched is not None:
                history.validation_loss.append(watched.loss())
                stalled = not watched.improved(history.validation_loss[-1])
            else:
                stalled = bool(history.loss) and (
                    history.loss[-1] - epoch_loss < config.tolerance * history.loss[-1]
                )
            if stalled:
                n_stalled += 1
            elif config.patience_resets:
                n_stalled = 0
            history.loss.append(epoch_loss)
            if after_epoch is not None:
                after_epoch(history)
            at_the_end = history.n_epochs == config.max_epochs
            as_planned = at_the_end if schedule is not None else n_stalled == config.patience
            if as_planned:
                history.converged = True
                break
            if at_the_end:
                warnings.warn(
                    f"{label}: max_epochs={config.max_epochs} came before {config.patience} stalled epochs.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
                break
    if watched is not None:
        network.load_state_dict(watched.best)
    return history


def _two_parts(
    n: int, held_out: NDArray[np.bool_] | None, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return positions of the training rows, and of the validation set."""
    if held_out is None:
        drawn = torch.randperm(n, generator=generator, device=generator.device)
        aside = max(1, round(share * n))
        if aside == n:
            raise InputError(
                "FitConfig.validation_share",
                expected="a share of the rows that leaves some to fit",
                found=f"{share:g}, which holds out all {n} rows",
                advice="Lower it, or collect more rows.",
            )
        return drawn[aside:], drawn[:aside]
    kept, aside_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return (
        torch.tensor(kept, device=generator.device),
        torch.tensor(aside_rows, device=generator.device),
    )


class _Watched:
    """Loss of the validation set, and the parameters at its lowest."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        columns: Sequence[Tensor],
        tolerance: float,
    ) -> None:
        self.network, self.objective, self.columns, self.tolerance = network, objective, columns, tolerance
        self.lowest = math.inf
        self.best: dict[str, Tensor] = {}

    def loss(self) -> float:
        """Compute the current loss of the validation set."""
        with torch.no_grad():
            return self.objective(*self.columns).reshape(1).tolist()[0]

    def improved(self, loss: float) -> bool:
        """Return whether the loss fell far enough below its lowest; store the parameters of the lowest."""
        enough = not self.best or loss < self.lowest * (1 - self.tolerance)
        if not self.best or loss < self.lowest:
            self.lowest = loss
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        return enough


@contextmanager
def _denormals_as_zero() -> Iterator[None]:
    """Treat numbers below 1e-38 as 0, as Adam's squares of tiny gradients slow a CPU down."""
    already = float(np.float32(1e-39) * np.float32(1)) == 0.0
    if already or not torch.set_flush_denormal(True):
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def fit_probability(
    network: nn.Module,
    columns: Sequence[Tensor] | RowSource,
    config: FitConfig,
    *,
    generator: torch.Generator,
    label: str,
    progress: bool = False,
    held_out: NDArray[np.bool_] | None = None,
) -> History:
    """Fit sigmoid(network(first, second)) to a target by the loss that ``config`` names.

    The columns are first, second and the target; first and second are user and item ids, or numbers and
    codes of features.

    Targets may leave [0, 1] under squared error (inverse-propensity and doubly robust
    pseudo-outcomes do); cross-entropy refuses them.

    Raises
    ------
    InputError
        If a target lies outside [0, 1] under cross-entropy (checked in memory only, not in files), or
        :func:`minimise` raises it.
    """
    if config.loss == "cross_entropy" and not isinstance(columns, RowSource):
        target = columns[2]
        if bool(((target < 0) | (target > 1)).any()):
            raise InputError(
                f"target of {label}",
                expected="values in [0, 1] for cross-entropy",
                found=f"values in [{float(target.min()):g}, {float(target.max()):g}]",
                advice="Use FitConfig(loss='squared_error') for pseudo-outcomes.",
            )
    return minimise(
        network,
        ProbabilityLoss(network, config.loss),
        columns,
        config,
        generator=generator,
        label=label,
        progress=progress,
        held_out=held_out,
    )

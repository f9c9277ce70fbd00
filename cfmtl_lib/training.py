"""The one training loop: mini-batch Adam with the stopping rule of the authors' code."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.progress import track

LOSSES = ("squared_error", "cross_entropy")


@dataclass(frozen=True)
class FitConfig:
    """How one network is fitted. The defaults are those of the paper's baselines.

    Parameters
    ----------
    loss : {"squared_error", "cross_entropy"}
        Of the predicted probability, for NCF and MF. CF-MTL has its own objective and ignores it.
    embedding_k : int
        Length of an embedding.
    embedding_sd : float
        Standard deviation of the initial embeddings.
    learning_rate, weight_decay : float
        Of Adam; the decay is the L2 form (added to the gradient, all parameters).
    batch_size : int
        Rows a step. The incomplete last batch of an epoch is dropped, as in the authors' code, unless
        ``keep_last_batch``; a log smaller than one batch is one batch.
    tolerance : float
        An epoch whose training loss fell by less than this share of the last one counts as stalled.
    patience : int
        Training stops at the stalled epoch of this number.
    max_epochs : int
        Training stops here in any case, with a ``ConvergenceWarning``.
    patience_resets : bool
        Count stalled epochs in a row only, as early stopping commonly does. The authors' code never resets
        its count.
    keep_last_batch : bool
        Use the incomplete last batch of an epoch too.
    validation_share : float
        Share of the rows, in [0, 1), that is held out of the steps. Where it is not 0, an epoch stalls if the
        loss of these rows falls by less than ``tolerance`` below its lowest, and the parameters of the
        lowest are kept. The paper has none: it watches the training loss.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    loss: str = "squared_error"
    embedding_k: int = 64
    embedding_sd: float = 1.0
    learning_rate: float = 0.01
    weight_decay: float = 1e-5
    batch_size: int = 8192
    tolerance: float = 1e-4
    patience: int = 7
    max_epochs: int = 1000
    patience_resets: bool = False
    keep_last_batch: bool = False
    validation_share: float = 0.0

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        for name, least in (
            ("embedding_k", 1),
            ("batch_size", 1),
            ("patience", 1),
            ("max_epochs", 1),
            ("embedding_sd", 0),
            ("learning_rate", 0),
            ("weight_decay", 0),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise InputError(f"FitConfig.{name}", expected=f"a number >= {least}", found=repr(value))
        if not 0 <= self.validation_share < 1:
            raise InputError(
                "FitConfig.validation_share", expected="a number in [0, 1)", found=repr(self.validation_share)
            )


@dataclass
class History:
    """What happened in one fit: losses an epoch (sums over steps), and why it ended.

    ``validation_loss`` is empty where no rows were held out.
    """

    loss: list[float] = field(default_factory=list)
    converged: bool = False
    validation_loss: list[float] = field(default_factory=list)

    @property
    def n_epochs(self) -> int:
        """Epochs run."""
        return len(self.loss)


def derive_generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """Random numbers for one purpose, independent of what else was fitted before.

    A fit alone and the same fit among others so get the same numbers.
    """
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(2, np.uint32)
    generator = torch.Generator(device=device)
    generator.manual_seed((int(words[0]) << 31) ^ int(words[1]))
    return generator


def minimise(
    network: nn.Module,
    objective: Callable[..., Tensor],
    columns: Sequence[Tensor],
    config: FitConfig,
    *,
    generator: torch.Generator,
    label: str,
    progress: bool = False,
    held_out: NDArray[np.bool_] | None = None,
) -> History:
    """Minimise ``objective(*batch of columns)`` over the parameters of ``network`` that want a gradient.

    Parameters
    ----------
    network : torch.nn.Module
        Trained in place.
    objective : callable
        Takes one batch of each column, returns the scalar loss of the batch.
    columns : sequence of Tensor, each of shape (n, ...)
        Data, on the device of the network.
    config : FitConfig
    generator : torch.Generator
        Shuffles the rows, on the same device.
    label : str
        Name of the fit in messages.
    progress : bool
        Say on stderr how far it is.
    held_out : ndarray of shape (n,), bool, optional
        Rows to stop on instead of to learn from; drawn where ``config`` asks for a share and none are given.

    Returns
    -------
    History

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.
    """
    watched: _Watched | None = None
    if held_out is not None or config.validation_share > 0:
        kept, aside = _two_parts(len(columns[0]), held_out, config.validation_share, generator)
        of_these = [column.index_select(0, aside) for column in columns]
        watched = _Watched(network, objective, of_these, config.tolerance)
        columns = [column.index_select(0, kept) for column in columns]
    n = len(columns[0])
    batch_size = min(config.batch_size, n)
    n_used = n if config.keep_last_batch else n // batch_size * batch_size
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )
    history = History()
    n_stalled = 0
    with _denormals_as_zero():
        for _ in track(count(), total=None, label=label, enabled=progress):
            order = torch.randperm(n, generator=generator, device=generator.device)[:n_used]
            # Laid out once an epoch, a batch is a view and a step gathers nothing but parameters.
            batches = zip(
                *(column.index_select(0, order).split(batch_size) for column in columns), strict=True
            )
            losses = []
            for batch in batches:
                optimiser.zero_grad(set_to_none=True)
                loss = objective(*batch)
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
            epoch_loss = math.fsum(torch.stack(losses).tolist())  # the only wait for the device in an epoch
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
            if n_stalled == config.patience:
                history.converged = True
                break
            if history.n_epochs == config.max_epochs:
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
    """Positions of the rows to learn from, and of those to watch."""
    if held_out is None:
        drawn = torch.randperm(n, generator=generator, device=generator.device)
        aside = max(1, round(share * n))
        return drawn[aside:], drawn[:aside]
    kept, aside_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return (
        torch.tensor(kept, device=generator.device),
        torch.tensor(aside_rows, device=generator.device),
    )


class _Watched:
    """The loss of rows that are held out, and the parameters at its lowest."""

    def __init__(
        self,
        network: nn.Module,
        objective: Callable[..., Tensor],
        columns: Sequence[Tensor],
        tolerance: float,
    ) -> None:
        self.network, self.objective, self.columns, self.tolerance = network, objective, columns, tolerance
        self.lowest = math.inf
        self.best: dict[str, Tensor] = {}

    def loss(self) -> float:
        """Of the rows held out, now."""
        with torch.no_grad():
            return self.objective(*self.columns).reshape(1).tolist()[0]

    def improved(self, loss: float) -> bool:
        """Whether the loss fell far enough below its lowest; remembers the parameters of the lowest."""
        enough = not self.best or loss < self.lowest * (1 - self.tolerance)
        if not self.best or loss < self.lowest:
            self.lowest = loss
            self.best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        return enough


@contextmanager
def _denormals_as_zero() -> Iterator[None]:
    """Treat numbers below 1e-38 as 0, for Adam's squares of tiny gradients make a CPU crawl through them."""
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
    first: Tensor,
    second: Tensor,
    target: Tensor,
    config: FitConfig,
    *,
    generator: torch.Generator,
    label: str,
    progress: bool = False,
    held_out: NDArray[np.bool_] | None = None,
) -> History:
    """Fit sigmoid(network(first, second)) to a target by the loss that ``config`` names.

    First and second are user and item ids, or numbers and codes of features.

    Targets may leave [0, 1] under squared error (inverse-propensity and doubly robust
    pseudo-outcomes do); cross-entropy refuses them.

    Raises
    ------
    InputError
        If a target outside [0, 1] meets cross-entropy.
    """
    if config.loss == "squared_error":

        def objective(one: Tensor, other: Tensor, y: Tensor) -> Tensor:
            return nn.functional.mse_loss(torch.sigmoid(network(one, other)), y)

    else:
        if bool(((target < 0) | (target > 1)).any()):
            raise InputError(
                f"target of {label}",
                expected="values in [0, 1] for cross-entropy",
                found=f"values in [{float(target.min()):g}, {float(target.max()):g}]",
                advice="Use FitConfig(loss='squared_error') for pseudo-outcomes.",
            )

        def objective(one: Tensor, other: Tensor, y: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(network(one, other), y)

    return minimise(
        network,
        objective,
        (first, second, target),
        config,
        generator=generator,
        label=label,
        progress=progress,
        held_out=held_out,
    )

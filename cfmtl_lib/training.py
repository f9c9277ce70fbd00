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


@dataclass
class History:
    """What happened in one fit: training loss an epoch (sum over steps), and why it ended."""

    loss: list[float] = field(default_factory=list)
    converged: bool = False

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

    Returns
    -------
    History

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.
    """
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
            if history.loss and history.loss[-1] - epoch_loss < config.tolerance * history.loss[-1]:
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
    return history


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
    user: Tensor,
    item: Tensor,
    target: Tensor,
    config: FitConfig,
    *,
    generator: torch.Generator,
    label: str,
    progress: bool = False,
) -> History:
    """Fit sigmoid(network(user, item)) to a target by the loss that ``config`` names.

    Targets may leave [0, 1] under squared error (inverse-propensity and doubly robust
    pseudo-outcomes do); cross-entropy refuses them.

    Raises
    ------
    InputError
        If a target outside [0, 1] meets cross-entropy.
    """
    if config.loss == "squared_error":

        def objective(u: Tensor, i: Tensor, y: Tensor) -> Tensor:
            return nn.functional.mse_loss(torch.sigmoid(network(u, i)), y)

    else:
        if bool(((target < 0) | (target > 1)).any()):
            raise InputError(
                f"target of {label}",
                expected="values in [0, 1] for cross-entropy",
                found=f"values in [{float(target.min()):g}, {float(target.max()):g}]",
                advice="Use FitConfig(loss='squared_error') for pseudo-outcomes.",
            )

        def objective(u: Tensor, i: Tensor, y: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(network(u, i), y)

    return minimise(
        network, objective, (user, item, target), config, generator=generator, label=label, progress=progress
    )

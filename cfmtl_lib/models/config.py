"""Settings of the fit of a network, and its training history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cfmtl_lib.checks import check_count, check_flag, check_number
from cfmtl_lib.errors import check_choice
from cfmtl_lib.runtime.registry import storable

LOSSES = ("squared_error", "cross_entropy")
ENGINES = ("auto", "torch", "compiled", "data-parallel")
PARAMETRISATIONS = ("embeddings", "additive")


@storable
@dataclass(frozen=True)
class FitConfig:
    """Settings of the fit of one network; the defaults are those of the paper's baselines.

    Parameters
    ----------
    loss : {"squared_error", "cross_entropy"}
        Loss of the predicted probability, for NCF and MF. CF-MTL has its own objective and ignores it.
    embedding_k : int
        Length of an embedding.
    embedding_sd : float
        Standard deviation of the initial embeddings.
    learning_rate, weight_decay : float
        Settings of Adam. The decay is the L2 form: it is added to the gradient, for all parameters.
    batch_size : int
        Rows per step. The incomplete last batch of an epoch is dropped, as in the authors' code, unless
        ``keep_last_batch`` is set. A log smaller than one batch is one batch.
    tolerance : float
        Relative fall of the training loss below which an epoch counts as stalled.
    patience : int
        Number of stalled epochs at which training stops.
    max_epochs : int
        Largest number of epochs; training that reaches it stops with a ``ConvergenceWarning``.
    patience_resets : bool
        Whether to count only stalled epochs in a row, as early stopping commonly does. The authors' code
        never resets its count.
    keep_last_batch : bool
        Whether to use the incomplete last batch of an epoch too.
    validation_share : float
        Share of the rows, in [0, 1), in the validation set, on which no step is taken. If it is above 0, an
        epoch stalls if the validation loss falls by less than ``tolerance`` below its lowest value. The fit
        keeps the parameters of the lowest. The paper has no validation set: it watches the training loss.
    learning_rate_decay : float
        Factor in (0, 1] on the learning rate after each epoch. The paper uses none: 1.
    parametrisation : {"embeddings", "additive"}
        Parameters that are trained if the logit is additive, :math:`a_u + b_i`. "embeddings" trains
        embeddings and a linear layer, as in the paper. "additive" trains :math:`a_u` and :math:`b_i`
        themselves, from the same initial values. The functions are the same, but the path to the optimum
        differs, so early stopping ends elsewhere. Matrix factorisation is not additive and does not change.
    engine : {"auto", "torch", "compiled", "data-parallel"}
        Engine that takes the steps; see :mod:`cfmtl_lib.models.engines`. "auto" is "compiled" where possible,
        else "torch". Their steps agree to rounding, which grows over the epochs of a long fit. So
        :class:`History` says which engine was used. "data-parallel" shares each batch among the processes
        that ``torchrun`` started.

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
    learning_rate_decay: float = 1.0
    parametrisation: str = "embeddings"
    engine: str = "auto"

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_choice("engine", self.engine, ENGINES)
        check_choice("parametrisation", self.parametrisation, PARAMETRISATIONS)
        for name in ("embedding_k", "batch_size", "patience", "max_epochs"):
            self._put(name, check_count)
        for name in ("embedding_sd", "learning_rate", "weight_decay"):
            self._put(name, check_number, low=0)
        self._put("tolerance", check_number)
        self._put("validation_share", check_number, low=0, high=1, high_open=True)
        self._put("learning_rate_decay", check_number, low=0, high=1, low_open=True)
        for name in ("patience_resets", "keep_last_batch"):
            self._put(name, check_flag)

    def _put(self, name: str, check: Callable[..., object], **bounds: Any) -> None:
        checked = check(getattr(self, name), f"FitConfig.{name}", **bounds)
        object.__setattr__(self, name, checked)  # numbers of numpy become those of Python


@storable
@dataclass
class History:
    """Training history of one fit: losses per epoch (sums over steps), and whether it converged.

    ``validation_loss`` is empty if there is no validation set. ``engine`` is the engine that took the steps,
    such as "compiled, numba 0.68.1"; empty if it is not known.
    """

    loss: list[float] = field(default_factory=list)
    converged: bool = False
    validation_loss: list[float] = field(default_factory=list)
    engine: str = ""

    @property
    def n_epochs(self) -> int:
        """Number of epochs run."""
        return len(self.loss)

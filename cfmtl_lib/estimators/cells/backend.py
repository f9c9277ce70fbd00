"""Backends that fit CF-MTL to one kind of x: their interface, and the choice of one for a log.

A backend is one file: a configuration, a class that fits it, and a fitted model that predicts strata and
propensity. Defining the class registers it; :class:`~cfmtl_lib.estimators.cfmtl.CFMTL` names no backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from inspect import isabstract
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.logs.validation import draw_groups
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.losses import CellNetwork, CellWeights
from cfmtl_lib.runtime.registry import key_of


@dataclass(frozen=True)
class CellTask:
    """Settings of a fit that do not depend on the kind of x.

    Attributes
    ----------
    name : str
        Name in messages, and in the purpose that random numbers are derived from.
    weights : CellWeights
    propensity_weight : float
    propensity_floor : float, optional
        Settings of the loss; see :class:`~cfmtl_lib.models.losses.CellNetwork`. Without a floor, a backend
        takes its own.
    device : torch.device
    seed : int
    progress : bool
        Whether to report progress on stderr.
    """

    name: str
    weights: CellWeights
    propensity_weight: float
    propensity_floor: float | None
    device: torch.device
    seed: int
    progress: bool

    def network(self, strata: Any, propensity: Any, floor: float) -> CellNetwork:
        """Join two networks under the loss of the task; ``floor`` applies if the task has none."""
        return CellNetwork(
            strata,
            propensity,
            weights=self.weights,
            propensity_floor=floor if self.propensity_floor is None else self.propensity_floor,
            propensity_weight=self.propensity_weight,
        )


@dataclass(frozen=True)
class FirstStage:
    """Settings of the fits that CF-MTL-v1 makes before it fits the cells.

    Attributes
    ----------
    propensity, outcome : FitConfig
        Settings of the fits of T and of Y.
    frozen : bool
        Whether to train only the strata head afterwards.
    done : object, optional
        Finished fits, if they were made before.
    """

    propensity: FitConfig
    outcome: FitConfig
    frozen: bool
    done: Any = None


class FittedCells(Protocol):
    """Fitted model of strata and propensity; also a :class:`~cfmtl_lib.runtime.registry.Part`."""

    def predict(self, part: str, x: NDArray) -> NDArray[np.float64]:
        """Return probabilities of "strata", shape (n, 5), or of the "propensity", shape (n,)."""
        ...


class CellBackend(ABC):
    """Backend that fits CF-MTL to logs of one kind of x.

    Parameters
    ----------
    config : object
        Settings, of the type :attr:`config_type`.
    """

    config_type: ClassVar[type]
    x_kind: ClassVar[str]
    """Kind of x in words, for messages: "pairs"."""

    preference: ClassVar[int] = 0
    """Rank as the default: of the backends that take a log, the largest; of equals, the first defined."""

    has_cell_loss: ClassVar[bool] = True
    """Whether it minimises the weighted cell loss of CF-MTL, on which its weights and first stage act."""

    backends: ClassVar[dict[str, type[CellBackend]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        CellBackend.backends[key_of(cls)] = cls

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    @abstractmethod
    def takes(cls, log: IncentiveLog | ParquetLog) -> bool:
        """Return whether the backend can be fitted to this log."""

    @classmethod
    @abstractmethod
    def default_config(cls) -> Any:
        """Return the default configuration."""

    @abstractmethod
    def fit(
        self, log: Any, task: CellTask, first_stage: FirstStage | None = None
    ) -> tuple[FittedCells, dict[str, History]]:
        """Fit strata and propensity.

        Parameters
        ----------
        log : IncentiveLog or ParquetLog
            Log that the backend takes.
        task : CellTask
        first_stage : FirstStage, optional
            First stage of CF-MTL-v1.

        Returns
        -------
        FittedCells, dict of str to History
            Fitted model, and the training curve of each fit.
        """


def backend_for(
    log: IncentiveLog | ParquetLog, config: Any = None, *, needs_cell_loss: bool = False
) -> CellBackend:
    """Choose the backend of a configuration or, without one, the preferred one that takes the log.

    Parameters
    ----------
    log : IncentiveLog or ParquetLog
    config : object, optional
        Settings of a backend.
    needs_cell_loss : bool
        Whether the estimator has settings of the weighted cell loss, or a first stage.

    Raises
    ------
    InputError
        If no backend has configurations of this type, or it does not take the log or those settings.
    """
    defined = CellBackend.backends.values()
    taking = [backend for backend in defined if not isabstract(backend) and backend.takes(log)]
    able = [backend for backend in taking if backend.has_cell_loss or not needs_cell_loss]
    if config is None:
        best = max(able, key=lambda backend: backend.preference)
        return best(best.default_config())
    for backend in able:
        if isinstance(config, backend.config_type):
            return backend(config)
    without_loss = any(isinstance(config, backend.config_type) for backend in taking)
    raise InputError(
        "config",
        expected=" or ".join(f"{b.config_type.__name__} for a log of {b.x_kind}" for b in able),
        found=type(config).__name__,
        advice="It has no weights of cells, no weight or floor of the propensity, and no first stage: leave "
        "these out, or leave out the configuration."
        if without_loss
        else "Leave it out for the default.",
    )


def held_out_rows(log: IncentiveLog, share: float, seed: int, fit: int) -> NDArray[np.bool_] | None:
    """Draw the validation set of a fit, by whole clusters where the log has them; None if the share is 0.

    Raises
    ------
    InputError
        If no row would be left to fit: the log is one cluster, or the share is too large.
    """
    if share == 0:
        return None
    rng = np.random.default_rng([seed, fit])
    held_out = draw_groups(log.groups, lambda n_groups: max(1, round(share * n_groups)), rng)
    if held_out.all():
        unit = "row" if log.cluster is None else "cluster"
        raise InputError(
            "validation_share",
            expected=f"a share of the {unit}s that leaves some to fit",
            found=f"{share:g}, which holds out every {unit}",
            advice="Lower it. A single cluster cannot be divided: leave cluster out then.",
        )
    return held_out

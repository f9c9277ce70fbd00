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
    propensity_weight, propensity_floor : float
        Settings of the loss; see :class:`~cfmtl_lib.models.losses.CellNetwork`.
    device : torch.device
    seed : int
    progress : bool
        Whether to report progress on stderr.
    """

    name: str
    weights: CellWeights
    propensity_weight: float
    propensity_floor: float
    device: torch.device
    seed: int
    progress: bool

    def network(self, strata: Any, propensity: Any) -> CellNetwork:
        """Join two networks under the loss of the task."""
        return CellNetwork(
            strata,
            propensity,
            weights=self.weights,
            propensity_floor=self.propensity_floor,
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


def backend_for(log: IncentiveLog | ParquetLog, config: Any = None) -> CellBackend:
    """Choose the backend of a configuration or, without one, the first that takes the log.

    Raises
    ------
    InputError
        If no backend has configurations of this type, or it does not take the log.
    """
    defined = CellBackend.backends.values()
    able = [backend for backend in defined if not isabstract(backend) and backend.takes(log)]
    if config is None:
        return able[0](able[0].default_config())
    for backend in able:
        if isinstance(config, backend.config_type):
            return backend(config)
    raise InputError(
        "config",
        expected=" or ".join(f"{b.config_type.__name__} for a log of {b.x_kind}" for b in able),
        found=type(config).__name__,
        advice="Leave it out for the default.",
    )

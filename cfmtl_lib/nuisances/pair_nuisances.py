"""Moments of a log of pairs by the paper's network, fitted once each and shared by estimators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cfmtl_lib.checks import check_flag, check_seed, describe
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.batches import RowSource
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.engines import engine_of_pairs
from cfmtl_lib.models.pair_networks import AdditiveNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, fit_probability, new_network
from cfmtl_lib.nuisances.moments import FAMILIES, MOMENTS, PairLog, check_clip_bounds
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.fit_cache import FitCache, content_hash


class PairNuisances:
    """Fits of the paper's NCF to the moments of one log, made when first asked for.

    Each fit draws its random numbers from (seed, its name), so it does not depend on other fits or on their
    order. Estimators that share one object get what they would have fitted alone.

    Parameters
    ----------
    log : IncentiveLog or ParquetLog
        Log of pairs.
    config : FitConfig
        Settings of every fit.
    propensity_clip : (float, float)
        Bounds of the estimated propensity.
    device : str or torch.device
    seed : int
    progress : bool
        Whether to report progress on stderr.
    cache : FitCache, optional
        Cache of fits; none if left out. Fits of a log in files are never cached.

    Attributes
    ----------
    histories : dict of str to History
        Training curve of each fit made so far.

    Raises
    ------
    LogError
        If the log holds features.
    InputError
        If the clip is no interval inside (0, 1), or a weighted moment is asked for with cross-entropy.
    """

    def __init__(
        self,
        log: IncentiveLog | ParquetLog,
        *,
        config: FitConfig,
        propensity_clip: tuple[float, float],
        device: str | torch.device = "auto",
        seed: int = 0,
        progress: bool = False,
        cache: FitCache | None = None,
    ) -> None:
        if not isinstance(log, IncentiveLog | ParquetLog):
            raise InputError("log", expected="an IncentiveLog or a ParquetLog", found=describe(log))
        self._space = log.pair_space  # refuses features before any work
        if not isinstance(config, FitConfig):
            raise InputError("config", expected="a FitConfig", found=describe(config))
        self.log, self.config, self.propensity_clip = log, config, check_clip_bounds(propensity_clip)
        self.device, self.seed = resolve_device(device), check_seed(seed)
        self.progress = check_flag(progress, "progress")
        self.cache = cache
        self.histories: dict[str, History] = {}
        self._networks: dict[str, AdditiveNetwork] = {}
        self._propensity: NDArray[np.float64] | None = None

    def propensity_network(self) -> AdditiveNetwork:
        """Return the NCF of T, fitted on all rows."""
        return self._fitted("propensity", lambda rows: rows.t, None)

    def propensity(self) -> NDArray[np.float64]:
        """Return the estimated propensity of the rows of a log in memory, clipped; shape (n,)."""
        if isinstance(self.log, ParquetLog):
            raise InputError(
                "log", expected="one in memory", found="one in files", advice="Predict at the rows you need."
            )
        if self._propensity is None:
            self._propensity = np.clip(
                predict_probability(self.propensity_network(), self.log.x), *self.propensity_clip
            )
        return self._propensity

    def moment(self, family: str, name: str) -> AdditiveNetwork:
        """Return the network of one moment.

        Parameters
        ----------
        family : {"OR", "IPS", "DR"}
        name : str
            One of :data:`MOMENTS`.

        Raises
        ------
        UnknownNameError
            If family or name are unknown.
        """
        check_choice("family", family, FAMILIES)
        moment = MOMENTS[check_choice("moment", name, MOMENTS)]
        if family == "OR":
            return self._fitted(f"OR {name}", moment.observed, moment.arm)
        self._check_loss(family)
        self.propensity_network()  # these first: a target is asked for in the midst of a fit
        regression = self.moment("OR", name) if family == "DR" else None

        def target(rows: PairLog) -> NDArray:
            propensity = self._propensity_at(rows)
            if regression is None:
                return moment.weights(rows, propensity) * moment.observed(rows)
            return moment.doubly_robust(rows, predict_probability(regression, rows.x), propensity)

        return self._fitted(f"{family} {name}", target, None)

    def _check_loss(self, family: str) -> None:
        if self.config.loss == "cross_entropy":
            raise InputError(
                f"FitConfig.loss of {family}",
                expected="'squared_error', as weighted outcomes leave [0, 1]",
                found="'cross_entropy'",
                advice="Use FitConfig(loss='squared_error').",
            )

    def _propensity_at(self, rows: PairLog) -> NDArray[np.float64]:
        if rows is self.log:
            return self.propensity()
        return np.clip(predict_probability(self.propensity_network(), rows.x), *self.propensity_clip)

    def _fitted(self, name: str, target: Callable[[PairLog], NDArray], arm: int | None) -> AdditiveNetwork:
        if name not in self._networks:
            self._networks[name], self.histories[name] = self._made_or_kept(name, target, arm)
        return self._networks[name]

    def _made_or_kept(
        self, name: str, target: Callable[[PairLog], NDArray], arm: int | None
    ) -> tuple[AdditiveNetwork, History]:
        log = self.log
        if isinstance(log, ParquetLog):
            return self._fit(name, log.source(target, self.device, arm=arm))
        keep = slice(None) if arm is None else np.flatnonzero(log.t == arm)
        values = np.asarray(target(log), dtype=np.float32)[keep]

        def make() -> tuple[AdditiveNetwork, History]:
            last = torch.tensor(values, device=self.device)
            return self._fit(name, (*columns_on_device(log, self.device, keep), last))

        if self.cache is None:
            return make()
        return self.cache(
            make,
            fit=name,
            config=self.config,
            engine=engine_of_pairs(self.config, self.device),
            seed=self.seed,
            device=self.device.type,
            data=content_hash(log.x[keep], values, self._space),
        )

    def _fit(self, name: str, columns: Sequence[torch.Tensor] | RowSource) -> tuple[AdditiveNetwork, History]:
        generator = derive_generator(self.seed, name, self.device)
        network = new_network(AdditiveNetwork, self._space, self.config, generator=generator)
        history = fit_probability(
            network, columns, self.config, generator=generator, label=name, progress=self.progress
        )
        keeps = self.cache is not None and self.cache.keeps
        return network.compact() if keeps else network, history


def training_columns(
    log: IncentiveLog | ParquetLog,
    target: Callable[[PairLog], NDArray],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Sequence[torch.Tensor] | RowSource:
    """Return user, item and a target of each row of a log of pairs, for training.

    Raises
    ------
    LogError
        If the log holds features.
    """
    if isinstance(log, ParquetLog):
        return log.source(target, device, dtype=dtype)
    return *columns_on_device(log, device), torch.tensor(target(log), dtype=dtype, device=device)


def columns_on_device(
    log: IncentiveLog, device: torch.device, rows: slice | NDArray = slice(None)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return user and item ids of some rows of a log of pairs, int64, on a device.

    Raises
    ------
    LogError
        If the log holds features.
    """
    _ = log.pair_space  # refuses features
    user, item = log.x[rows].T
    return (
        torch.tensor(user, dtype=torch.int64, device=device),  # scatters four times faster than int32
        torch.tensor(item, dtype=torch.int64, device=device),
    )

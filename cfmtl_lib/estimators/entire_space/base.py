r"""What the entire-space models share: four heads, their fit, and the rewards that follow from them.

The heads are conditional probabilities, given x:

.. math::
    &p_C = P(C{=}1 \mid T{=}1), \quad b_1 = P(Y{=}1 \mid C{=}1, T{=}1), \\
    &b_2 = P(Y{=}1 \mid C{=}0, T{=}1), \quad b_0 = P(Y{=}1 \mid T{=}0).

So :math:`\mu_1 = p_C b_1 + (1 - p_C) b_2` and :math:`\mu_0 = b_0`. A used coupon has probability
:math:`p_C b_1`, a collected incentive :math:`p_C`. A reward is linear in these for any scenario and cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from cfmtl_lib.checks import check_count, check_flag, check_seed
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.base import LogEstimator, as_log, labels_of
from cfmtl_lib.estimators.head_networks import HeadModel, HeadNetwork, PairTrunk, feature_trunk
from cfmtl_lib.estimators.likelihood import LEAST_PROBABILITY
from cfmtl_lib.estimators.network_fits import (
    SHORT_FIT,
    CellColumns,
    NetworkTask,
    default_feature_config,
    fit_networks,
)
from cfmtl_lib.logs.encoding import FeatureRows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.batches import RowSource
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.feature_networks import FeatureConfig, FeatureNetwork, FeatureScaler, feature_columns
from cfmtl_lib.nuisances.pair_nuisances import training_columns
from cfmtl_lib.policy.rewards import payment_of, reward_of_means
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.registry import storable
from cfmtl_lib.strata import CELLS

HEADS = ("collected", "bought_collected", "bought_not_collected", "bought_untreated")
"""Heads in the order of the logits: :math:`p_C, b_1, b_2, b_0`."""


@storable
class EntireSpaceNetwork(HeadNetwork):
    """Network with the four heads, and maybe more, whose probabilities are those of the cells."""

    def probabilities(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute the probability of each cell given its arm; (n, 6) float64, in the order of ``CELLS``."""
        return cell_probabilities_of(self.double_logits(first, second))


def cell_probabilities_of(logits: Tensor) -> Tensor:
    """Compute the probability of each cell given its arm, shape (n, 6), from logits of shape (heads, n)."""
    collected, bought, bought_without, untreated = torch.sigmoid(logits[: len(HEADS)])
    of_cell = {
        (1, 0, 0): (1 - collected) * (1 - bought_without),
        (1, 0, 1): (1 - collected) * bought_without,
        (1, 1, 0): collected * (1 - bought),
        (1, 1, 1): collected * bought,
        (0, 0, 1): untreated,
        (0, 0, 0): 1 - untreated,
    }
    return torch.stack([of_cell[cell] for cell in CELLS], dim=1)


class EntireSpaceEstimator(LogEstimator):
    """Base class of the entire-space models: a network with four heads, and a loss that each subclass writes.

    Pairs get embeddings of 16 factors with additive scores of users and items for each head. Features get
    small networks (:mod:`cfmtl_lib.models.feature_networks`). None of the models uses exclusion or
    monotonicity, and none identifies strata.

    Parameters
    ----------
    config : FitConfig or FeatureConfig, optional
        Settings of the networks: ``FitConfig`` for pairs, ``FeatureConfig`` for features and for pairs with
        features. If left out, a few passes with a decaying learning rate, or
        :func:`~cfmtl_lib.estimators.network_fits.default_feature_config`.
    width : int
        Units of the hidden layer of each head.
    device : str or torch.device
        Device of the networks. "auto" takes CUDA where there is a CUDA device.
    seed : int
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    network_ : HeadModel
        Fitted networks.
    histories_ : dict of str to History
        Training curve of each network.
    schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.base.LogEstimator`.
    """

    network_: HeadModel
    histories_: dict[str, History]

    n_heads: ClassVar[int] = len(HEADS)

    def __init__(
        self,
        *,
        config: FitConfig | FeatureConfig | None = None,
        width: int = 16,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.config = config
        self.width = width
        self.device = device
        self.seed = seed
        self.progress = progress

    def loss(self, logits: Tensor, t: Tensor, c: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of a batch, a mean over its rows.

        Parameters
        ----------
        logits : Tensor of shape (n_heads, n)
            Logits, in the order of :data:`HEADS`.
        t, c, y : Tensor of shape (n,), 0 or 1
            Incentive given, collected, converted.

        Returns
        -------
        Tensor of shape ()
        """
        raise NotImplementedError

    def _n_experts(self) -> int:
        return 0

    def _check(self) -> None:
        check_seed(self.seed)
        check_flag(self.progress, "progress")
        check_count(self.width, "width", most=100_000)

    def fit(
        self,
        x: IncentiveLog | ParquetLog | FeatureRows,
        y: ArrayLike | None = None,
        *,
        pairs: bool | None = None,
    ) -> Self:
        """Fit the four heads.

        Parameters
        ----------
        x : IncentiveLog, ParquetLog, or features
            Rows. Files take a ``config`` whose ``validation_share`` is 0.
        y : array_like of shape (n, 3), 0/1, optional
            Incentive given, collected, converted, beside features; see
            :meth:`~cfmtl_lib.logs.incentive_log.IncentiveLog.from_xy`.
        pairs : bool, optional
            Whether integers in two columns are user and item ids; has to be given for them beside y.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If x and y make no log.
        InputError
            If a setting is out of range, or ``config`` is for another kind of x.
        """
        log = as_log(x, y, pairs)
        self._check()
        device = resolve_device(self.device)
        scaler: FeatureScaler | None = None
        columns: Sequence[Tensor] | RowSource
        config = self._config_for(log)
        if isinstance(log, ParquetLog) or log.is_pairs:
            columns = training_columns(log, lambda rows: rows.cell, device, torch.int8)
        else:
            scaler = FeatureScaler.learn(log)
            cell = torch.tensor(log.cell, device=device)
            columns = (*feature_columns(scaler, log.x, device), cell)
        outcomes = CellColumns(device)

        def make(generator: torch.Generator) -> EntireSpaceNetwork:
            trunk = self._trunk(log, config, scaler, generator)
            return EntireSpaceNetwork(trunk, self.n_heads, self.width, self._n_experts(), generator=generator)

        task = NetworkTask(
            name=type(self).__name__,
            make=make,
            objective=lambda network: (
                lambda first, second, cell: self.loss(network(first, second), *outcomes(cell))
            ),
            config=config.fit if isinstance(config, FeatureConfig) else config,
            n_networks=config.n_networks if isinstance(config, FeatureConfig) else 1,
            device=device,
            seed=self.seed,
            progress=self.progress,
        )
        networks, self.histories_ = fit_networks(task, log, columns)
        self.network_ = HeadModel(networks, scaler)
        self.remember_input(log)
        return self

    def _config_for(self, log: IncentiveLog | ParquetLog) -> FitConfig | FeatureConfig:
        kind, x = (FitConfig, "pairs") if log.is_pairs else (FeatureConfig, "features")
        if self.config is None:
            return SHORT_FIT if log.is_pairs else default_feature_config(len(log))
        if not isinstance(self.config, kind):
            raise InputError(
                "config",
                expected=f"{kind.__name__} for a log of {x}",
                found=type(self.config).__name__,
                advice="Leave it out for the default.",
            )
        return self.config

    def _trunk(
        self,
        log: IncentiveLog | ParquetLog,
        config: FitConfig | FeatureConfig,
        scaler: FeatureScaler | None,
        generator: torch.Generator,
    ) -> PairTrunk | FeatureNetwork:
        if isinstance(config, FitConfig):
            return PairTrunk(
                *log.pair_space,
                config.embedding_k,
                self.n_heads,
                generator=generator,
                embedding_sd=config.embedding_sd,
            )
        assert scaler is not None
        return feature_trunk(scaler, self.width, config, generator)

    def predict_cells(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        """Predict the probability of each cell given its arm, shape (n, 6), in the order of ``CELLS``.

        The four cells of the treated sum to 1, and so do the two of the untreated.
        """
        check_is_fitted(self, "network_")
        return self.network_.predict(self.schema_.matrix(x))

    def predict_cate(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        r"""Predict the uplift :math:`\mu_1(x) - \mu_0(x)`, shape (n,)."""
        means = _means(self.predict_cells(x))
        return means["converted_treated"] - means["converted_untreated"]

    def predict_reward(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str,
        cost: float | ArrayLike,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """See :meth:`~cfmtl_lib.estimators.base.LogEstimator.predict_reward`."""
        paid = payment_of(scenario).moment
        means = _means(self.predict_cells(x))
        return reward_of_means(
            means["converted_treated"],
            means["converted_untreated"],
            means[paid],
            cost,
            conversion_value,
            labels_of(x),
        )

    def _log_likelihood(self, log: IncentiveLog) -> NDArray[np.float64]:
        """Use the cell of each row given its treatment, as models of strata do."""
        observed = self.predict_cells(log)[np.arange(len(log)), log.cell]
        return np.log(observed.clip(LEAST_PROBABILITY, 1.0))


def _means(cells: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the conditional means of ``MOMENTS`` that the cells imply, each of shape (n,)."""
    of_cell = dict(zip(CELLS, cells.T, strict=True))
    used = of_cell[1, 1, 1]
    return {
        "converted_treated": of_cell[1, 0, 1] + used,
        "converted_untreated": of_cell[0, 0, 1],
        "collected_treated": of_cell[1, 1, 0] + used,
        "collected_and_converted_treated": used,
    }

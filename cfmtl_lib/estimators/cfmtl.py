r"""CF-MTL: strata probabilities and propensity learnt together from the six observable cells.

Let f(x) be the strata probabilities and g(x) the propensity. Cell (t, c, y) then has probability g(x) or
1 - g(x), times a sum of strata (:data:`~cfmtl_lib.strata.CELL_MEMBERSHIP`; paper, Section 3.3). The loss adds
one binary cross-entropy per cell. Each runs over all rows: the entire space, not one arm.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.checks import check_flag, check_number, check_seed, describe
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.base import StrataEstimator, as_log
from cfmtl_lib.estimators.cells import (  # noqa: F401  # backends enter by being defined
    boosted_cells,
    feature_cells,
    pair_cells,
)
from cfmtl_lib.estimators.cells.backend import CellTask, FirstStage, FittedCells, backend_for
from cfmtl_lib.estimators.cells.boosted_cells import BoostedConfig
from cfmtl_lib.logs.encoding import FeatureRows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.feature_networks import FeatureConfig
from cfmtl_lib.models.losses import CellWeights
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device


class CFMTL(StrataEstimator, method="CF-MTL"):
    r"""CF-MTL: propensity and strata trained together from the first step.

    On pairs it uses the networks and the stopping rule of the authors' code. On features, which the paper
    does not have, it uses boosted trees (:mod:`cfmtl_lib.estimators.cells.boosted_cells`). Small networks are
    the other choice, by ``config=FeatureConfig()``. The log decides which backend fits; see
    :mod:`cfmtl_lib.estimators.cells.backend`.

    Networks minimise the following loss. :math:`q_k` is the probability of cell k, and :math:`z_{kn} = 1`
    where row n lies in it.

    .. math::
        \sum_k w_k \sum_n \mathrm{BCE}(q_k(x_n), z_{kn}) + \eta \sum_n (g(x_n) - t_n)^2 .

    Trees minimise minus the log-likelihood of the cell given the arm. It has no weights, and no propensity:
    that is fitted by itself. So if ``weights``, ``propensity_weight`` or ``propensity_floor`` are given,
    networks are fitted, and a ``BoostedConfig`` is refused.

    Parameters
    ----------
    config : FitConfig, BoostedConfig or FeatureConfig, optional
        Settings of the fit: ``FitConfig`` for networks of pairs. For features, and pairs with features,
        ``BoostedConfig`` for trees or ``FeatureConfig`` for networks. If left out: the published settings on
        pairs, ``BoostedConfig()`` on features.
    weights : CellWeights, optional
        Weights :math:`w_k` of the six cells; 0 leaves a term out. The published ones if left out.
    propensity_weight : float, optional
        Weight :math:`\eta` of the squared error of the propensity; 0.5, as published, if left out.
    propensity_floor : float, optional
        Lower bound of g inside the loss. If left out: 0.1 on pairs, as published, and 0 on features.
    device : str or torch.device
        Device of the networks. "auto" takes CUDA where there is a CUDA device. Trees are fitted on the CPU.
    seed : int
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    network_ : FittedCells
        Fitted model of strata and propensity: a ``CellNetwork`` of pairs, ``BoostedStrata`` or
        ``FeatureCells``.
    schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.base.LogEstimator`.
    histories_ : dict of str to History
        Training curve of each stage; for trees the mean losses of the rows by round.
    """

    network_: FittedCells
    histories_: dict[str, History]

    def __init__(
        self,
        *,
        config: FitConfig | BoostedConfig | FeatureConfig | None = None,
        weights: CellWeights | None = None,
        propensity_weight: float | None = None,
        propensity_floor: float | None = None,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.config = config
        self.weights = weights
        self.propensity_weight = propensity_weight
        self.propensity_floor = propensity_floor
        self.device = device
        self.seed = seed
        self.progress = progress

    def fit(
        self,
        x: IncentiveLog | ParquetLog | FeatureRows,
        y: ArrayLike | None = None,
        *,
        pairs: bool | None = None,
    ) -> Self:
        """Fit strata and propensity.

        Parameters
        ----------
        x : IncentiveLog, ParquetLog, or features
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
            If a weight is negative, all are 0, or the propensity floor lies outside [0, 1). Also if
            ``config`` is for another kind of x, or its backend has no such settings.
        """
        return self._fit(as_log(x, y, pairs))

    def _fit(self, log: IncentiveLog | ParquetLog, first_stage: FirstStage | None = None) -> Self:
        self._check()
        given = (self.weights, self.propensity_weight, self.propensity_floor)
        of_networks = first_stage is not None or any(setting is not None for setting in given)
        backend = backend_for(log, self.config, needs_cell_loss=of_networks)
        self.network_, self.histories_ = backend.fit(log, self._task(), first_stage)
        self.remember_input(log)
        return self

    def _task(self) -> CellTask:
        return CellTask(
            type(self).__name__,
            PAPER.joint_weights if self.weights is None else self.weights,
            float(PAPER.propensity_weight if self.propensity_weight is None else self.propensity_weight),
            None if self.propensity_floor is None else float(self.propensity_floor),
            resolve_device(self.device),
            self.seed,
            self.progress,
        )

    def _check(self) -> None:
        check_seed(self.seed)
        check_flag(self.progress, "progress")
        if self.weights is not None:
            check_weights(self.weights)
        if self.propensity_floor is not None:
            check_number(self.propensity_floor, "propensity_floor", low=0, high=1, high_open=True)
        if self.propensity_weight is not None:
            check_number(self.propensity_weight, "propensity_weight", low=0)

    def predict_strata(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        """Predict strata probabilities at x: shape (n, 5), float64, in [0, 1], rows sum to 1."""
        check_is_fitted(self, "network_")
        return self.network_.predict("strata", self.schema_.matrix(x))

    def predict_propensity(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        """Predict the propensity at x, before its lower bound applies; shape (n,)."""
        check_is_fitted(self, "network_")
        return self.network_.predict("propensity", self.schema_.matrix(x))


def check_weights(given: object) -> None:
    """Check that weights are :class:`~cfmtl_lib.models.losses.CellWeights`, none below 0 and not all 0.

    Raises
    ------
    InputError
        If they are not.
    """
    if not isinstance(given, CellWeights):
        raise InputError(
            "weights",
            expected="CellWeights",
            found=describe(given),
            advice="cfmtl_lib.CellWeights names the weight of each cell.",
        )
    weights = [check_number(weight, "weights", low=0) for weight in given.in_cell_order()]
    if max(weights) == 0:
        raise InputError("weights", expected="weights >= 0, not all 0", found=repr(given))

"""CF-MTL-v1, the two-stage form of CF-MTL in the reproduction report."""

from __future__ import annotations

from typing import Self

from numpy.typing import ArrayLike

from cfmtl_lib.checks import check_flag, describe
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.estimators.base import as_log
from cfmtl_lib.estimators.cells.backend import FirstStage, backend_for
from cfmtl_lib.estimators.cells.pair_cells import PairCells, Pretrained
from cfmtl_lib.estimators.cfmtl import CFMTL, check_weights
from cfmtl_lib.logs.encoding import FeatureRows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.feature_networks import FeatureConfig
from cfmtl_lib.models.losses import CellWeights
from cfmtl_lib.protocol import PAPER


class CFMTLv1(CFMTL, method="CF-MTL-v1"):
    """CF-MTL-v1 of the reproduction report: pre-training, then fine-tuning of everything on the cells.

    Propensity NCF and outcome MF are fitted first, each by itself. A new strata head is put on the
    MF's embeddings, and all parameters are trained on the six cell losses, without a propensity loss. The
    report's prose suggests that the first two models stay fixed; its listing trains them further.
    ``frozen=True`` keeps them fixed. On features it stays a model of small networks: trees have no first
    stage to start from.

    Parameters
    ----------
    config : FitConfig or FeatureConfig, optional
        Settings of the networks of pairs, or of those of features.
    weights : CellWeights
        Weights of the six cells; those of the report's listing by default.
    propensity_floor, device, seed, progress
        See :class:`~cfmtl_lib.estimators.cfmtl.CFMTL`.
    pretraining_propensity, pretraining_outcome : FitConfig
        Settings of the two first fits on pairs. On features only their loss is used.
    frozen : bool
        Whether to train only the strata head in the second stage.
    """

    def __init__(
        self,
        *,
        config: FitConfig | FeatureConfig | None = None,
        weights: CellWeights = PAPER.two_stage_weights,
        propensity_floor: float | None = None,
        pretraining_propensity: FitConfig = PAPER.pretraining_propensity,
        pretraining_outcome: FitConfig = PAPER.pretraining_outcome,
        frozen: bool = False,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(
            config=config,
            weights=weights,
            propensity_weight=0.0,
            propensity_floor=propensity_floor,
            device=device,
            seed=seed,
            progress=progress,
        )
        self.pretraining_propensity = pretraining_propensity
        self.pretraining_outcome = pretraining_outcome
        self.frozen = frozen

    def fit(
        self,
        x: IncentiveLog | ParquetLog | FeatureRows,
        y: ArrayLike | None = None,
        *,
        pretrained: Pretrained | None = None,
        pairs: bool | None = None,
    ) -> Self:
        """Pre-train, then fit strata and propensity.

        Parameters
        ----------
        x, y, pairs
            See :meth:`cfmtl_lib.estimators.cfmtl.CFMTL.fit`.
        pretrained : Pretrained, optional
            First stage that :meth:`pretrain` of an estimator with the same settings made on the same log of
            pairs. Loss weights and ``frozen`` may differ, as they matter only afterwards.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If x and y make no log.
        InputError
            If :meth:`cfmtl_lib.estimators.cfmtl.CFMTL.fit` would raise it, embeddings differ in length, or
            ``pretrained`` belongs to another log or other settings.
        """
        log = as_log(x, y, pairs)
        if pretrained is not None:
            ours = self._pair_backend(log).first_stage_settings(self._task(), self._first_stage())
            for what, found, expected in (
                ("of this log", pretrained.log is log, True),
                ("with the settings of this estimator", pretrained.settings, ours),
            ):
                if found != expected:
                    raise InputError(
                        "pretrained",
                        expected=f"pre-training {what}",
                        found="another one",
                        advice="Call pretrain(log) of this estimator.",
                    )
        return self._fit(log, self._first_stage(pretrained))

    def pretrain(self, log: IncentiveLog | ParquetLog) -> Pretrained:
        """Fit the first stage on pairs alone, for several second stages to start from.

        Returns
        -------
        Pretrained

        Raises
        ------
        LogError
            If the log holds features.
        """
        self._check()
        return self._pair_backend(log).pretrain(log, self._task(), self._first_stage())

    def _check(self) -> None:
        super()._check()
        check_weights(self.weights)
        check_flag(self.frozen, "frozen")
        for name in ("pretraining_propensity", "pretraining_outcome"):
            if not isinstance(getattr(self, name), FitConfig):
                raise InputError(name, expected="a FitConfig", found=describe(getattr(self, name)))

    def _first_stage(self, done: Pretrained | None = None) -> FirstStage:
        return FirstStage(self.pretraining_propensity, self.pretraining_outcome, self.frozen, done)

    def _pair_backend(self, log: IncentiveLog | ParquetLog) -> PairCells:
        backend = backend_for(log, self.config, needs_cell_loss=True)
        if not isinstance(backend, PairCells):
            raise LogError("log", expected="user-item pairs", found=f"{backend.x_kind}")
        return backend

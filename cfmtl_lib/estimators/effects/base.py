r"""Base class of the learners of effects, which identify no strata.

A learner fits the outcomes that the reward consists of, so that one fit serves every scenario and cost. With
:math:`\tau(x) = E[Y|T{=}1,x] - E[Y|T{=}0,x]` and the payment w of the scenario, observed under treatment, the
reward of treating is

.. math::
    &(1+c)\,\tau(x) - c\,w(x), \\
    &w(x) = E[CY|T{=}1,x] \text{ (coupon)}, \quad w(x) = E[C|T{=}1,x] \text{ (cash)}.

If T does not depend on the potential outcomes given x (unconfoundedness), this is the expected reward.
Neither exclusion nor monotonicity is used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.checks import check_count, check_flag, check_seed, describe
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.base import LogEstimator, as_log, labels_of
from cfmtl_lib.estimators.likelihood import outcome_log_likelihood
from cfmtl_lib.estimators.pair_features import ENCODINGS, PairEncoder, encoding_names, refuse_files
from cfmtl_lib.logs.columns import Column
from cfmtl_lib.logs.encoding import FeatureRows, FrameEncoder
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.logs.schema import InputSchema
from cfmtl_lib.nuisances.learners import category_columns
from cfmtl_lib.policy.arguments import check_costs
from cfmtl_lib.policy.rewards import payment_of, reward_of_means
from cfmtl_lib.runtime.registry import storable

CATE = "cate"
"""Name of the effect on conversions, beside the names of the payments in
:data:`~cfmtl_lib.nuisances.moments.MOMENTS`."""

PAID = tuple(payment_of(scenario).moment for scenario in ("coupon", "cash"))
"""Names of the payments: E[CY|T=1,x], E[C|T=1,x]."""


def reward_of_effects(
    effects: Mapping[str, NDArray[np.float64]],
    scenario: str,
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    index: pd.Index | None = None,
) -> NDArray[np.float64]:
    """Compute the reward of treating each row from its effects.

    Parameters
    ----------
    effects : mapping of str to ndarray of shape (n,)
        Result of :meth:`EffectEstimator.predict_effects`.
    scenario : {"coupon", "cash"}
    cost, conversion_value
        As in :func:`~cfmtl_lib.policy.rewards.expected_reward`.
    index : pandas.Index, optional
        Labels of the rows, which a Series of costs or values has to match.

    Returns
    -------
    ndarray of shape (n,), float64
        Reward in conversions, or in the units of ``conversion_value``.

    Raises
    ------
    UnknownNameError, InputError
        If the scenario is unknown, or a cost or value is no finite number from 0.
    """
    paid = effects[payment_of(scenario).moment]
    return reward_of_means(effects[CATE], np.zeros(len(paid)), paid, cost, conversion_value, index)


@storable
class EffectInput:
    """Preparation of x for learners of effects: ids become numbers, anything else stays as it is.

    Pairs become the twelve numbers of :class:`~cfmtl_lib.estimators.pair_features.PairEncoder`. A category of
    more than 254 levels, such as users beside features, becomes six such numbers at the end of the columns.
    Floats, other categories and missing numbers stay.

    Parameters
    ----------
    seed : int
        Seed of the folds of the encodings.

    Attributes
    ----------
    encoder_ : PairEncoder or None
        Encoder of the ids; None where there are none.
    ids_ : tuple of int
        Positions of the columns that it replaces.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.encoder_: PairEncoder | None = None
        self.ids_: tuple[int, ...] = ()

    def fit(self, log: IncentiveLog) -> IncentiveLog:
        """Learn from a log, and return it as a log of features; rows are encoded from other folds."""
        sizes: tuple[int, ...]
        if log.is_pairs:
            self.ids_, sizes = (0, 1), log.pair_space
        else:
            self.ids_ = category_columns(log.encoder)[1]
            columns = log.encoder.columns if log.encoder is not None else ()
            sizes = tuple(len(columns[k].categories) + 1 for k in self.ids_)
        if not self.ids_:
            return log
        self.encoder_ = PairEncoder(seed=self.seed)
        encoded = self.encoder_.fit_codes(log.x[:, list(self.ids_)], sizes, log)
        kept = np.delete(np.asarray(log.x, dtype=np.float64), self.ids_, axis=1)
        return IncentiveLog(
            np.concatenate([kept, encoded], axis=1),
            log.t,
            log.c,
            log.y,
            propensity=log.propensity,
            cluster=log.cluster,
            encoder=self._encoder_of_kept(log.encoder),
            index=log.index,
            outcome=log.outcome,
        )

    def _encoder_of_kept(self, encoder: FrameEncoder | None) -> FrameEncoder | None:
        if encoder is None:
            return None
        kept = [column for k, column in enumerate(encoder.columns) if k not in self.ids_]
        numbers = [
            Column(name, "number") for k in self.ids_ for name in encoding_names(encoder.columns[k].name)
        ]
        return FrameEncoder((*kept, *numbers))

    def prepared_schema(self, schema: InputSchema) -> InputSchema:
        """Return the schema of the prepared features, from that of x."""
        if not self.ids_:
            return schema
        n_features = schema.n_features + len(self.ids_) * (len(ENCODINGS) - 1)
        return InputSchema(n_features, encoder=self._encoder_of_kept(schema.encoder))

    def transform(self, x: NDArray) -> NDArray[np.float64]:
        """Prepare rows of the schema of the fitted log; shape (n, number of features)."""
        values = np.asarray(x)
        if self.encoder_ is None:
            return values
        encoded = self.encoder_.transform_codes(values[:, list(self.ids_)])
        kept = np.delete(np.asarray(values, dtype=np.float64), self.ids_, axis=1)
        return np.concatenate([kept, encoded], axis=1)

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        return {"seed": self.seed, "encoder": self.encoder_, "ids": self.ids_}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        made = cls(parts["seed"])
        encoder = parts["encoder"]
        if encoder is not None and not isinstance(encoder, PairEncoder):
            raise InputError("encoder", expected="a PairEncoder", found=type(encoder).__name__)
        made.encoder_ = encoder
        made.ids_ = tuple(check_count(k, "ids", least=0) for k in parts["ids"])
        n_tables = 0 if encoder is None else len(encoder.tables_)
        if len(set(made.ids_)) != n_tables:
            raise InputError("ids", expected=f"{n_tables} columns of the encoder", found=repr(made.ids_))
        return made


class EffectEstimator(LogEstimator):
    """Base class of the learners of effects on conversions and on payments.

    A subclass has the parameters ``seed`` and ``progress``, and writes two methods. :meth:`_fit_effects` fits
    a log of features, in which ids are numbers already (:class:`EffectInput`). :meth:`_effects` predicts from
    such features. A subclass that predicts the mean of each arm also writes :meth:`_arm_means`. It then
    has a ``score``.

    Attributes
    ----------
    n_rows_ : int
        Number of rows that the effects were fitted to; ``max_rows`` bounds it.
    input_ : EffectInput
        Preparation of x, from all rows.
    schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.base.LogEstimator`.
    """

    input_: EffectInput
    predicts_arms: ClassVar[bool] = False
    """Whether the learner has :meth:`_arm_means`."""

    seed: int
    progress: bool
    max_rows: int | None = None
    """Largest number of rows to fit, drawn at random; a parameter of subclasses that need a limit."""

    def fit(
        self,
        x: IncentiveLog | FeatureRows,
        y: ArrayLike | None = None,
        *,
        pairs: bool | None = None,
    ) -> Self:
        """Fit the effects on conversions and on both payments.

        Parameters
        ----------
        x : IncentiveLog, or features
            Log of pairs, of features, or of pairs with features. A log in files is refused.
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
            If a setting is out of range, or the log is in files.
        """
        self._check()
        log = as_log(x, y, pairs)
        if isinstance(log, ParquetLog):
            refuse_files(type(self).__name__)
        self.remember_input(log)
        self.input_ = EffectInput(self.seed)
        rows = self._drawn(self.input_.fit(log))
        self.n_rows_ = len(rows)
        self._fit_effects(rows)
        return self

    def _drawn(self, log: IncentiveLog) -> IncentiveLog:
        if self.max_rows is None or len(log) <= self.max_rows:
            return log
        rng = np.random.default_rng(self.seed)
        rows = np.sort(rng.choice(len(log), self.max_rows, replace=False))
        if log.t[rows].min() == log.t[rows].max():
            raise InputError(
                "max_rows",
                expected="enough rows for a sample with both arms",
                found=f"{self.max_rows} of {len(log)} rows, drawn with t = {log.t[rows[0]]} alone",
                advice="Raise it, or take another seed.",
            )
        return log.take(rows)

    def predict_cate(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        r"""Predict the effect on conversions, :math:`\tau(x)`; shape (n,), float64.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        LogError
            If x is not what the model was fitted on.
        """
        return self._predict(x, (CATE,))[CATE]

    def predict_effects(self, x: IncentiveLog | FeatureRows) -> dict[str, NDArray[np.float64]]:
        r"""Predict the effect on conversions and both payments in one pass.

        :func:`reward_of_effects` makes the reward of any scenario and cost from them. Where predictions are
        slow, as for Bayesian trees, this saves one pass for each further scenario.

        Returns
        -------
        dict of str to ndarray of shape (n,), float64
            "cate" for :math:`\tau(x)`, and the payments "collected_and_converted_treated" (E[CY|T=1,x]) and
            "collected_treated" (E[C|T=1,x]).

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        LogError
            If x is not what the model was fitted on.
        InputError
            If the model was fitted to an outcome in money, whose effect is not one on conversions.
        """
        if getattr(self, "in_money_", False):
            raise InputError(
                "predict_effects",
                expected="a model of conversions",
                found="one of an outcome in money",
                advice="predict_cate and predict_reward are in its units.",
            )
        return self._predict(x, (CATE, *PAID))

    def predict_reward(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str,
        cost: float | ArrayLike,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """See :meth:`~cfmtl_lib.estimators.base.LogEstimator.predict_reward`."""
        paid = payment_of(scenario).moment
        effects = self._predict(x, (CATE, paid))
        if getattr(self, "in_money_", False):
            if conversion_value is not None:
                raise InputError(
                    "conversion_value",
                    expected="none: the model was fitted to an outcome in money",
                    found=describe(conversion_value),
                )
            return effects[CATE] - check_costs(cost, len(effects[CATE]), index=labels_of(x)) * effects[paid]
        return reward_of_effects(effects, scenario, cost, conversion_value, labels_of(x))

    def _predict(self, x: IncentiveLog | FeatureRows, names: Collection[str]) -> dict[str, NDArray]:
        check_is_fitted(self, "input_")
        return self._effects(self.input_.transform(self.schema_.matrix(x)), names)

    def _log_likelihood(self, log: IncentiveLog) -> NDArray[np.float64]:
        """Use conversions alone, given the arm, as for outcome regressions."""
        if not self.predicts_arms:
            raise InputError(
                "score",
                expected="a learner that predicts the mean of each arm",
                found=f"{type(self).__name__}, which predicts their difference alone",
                advice="Compare by value: scoring=cfmtl_lib.policy_value_scorer(...).",
            )
        features = self.input_.transform(self.schema_.matrix(log))
        treated, untreated = self._arm_means(features)
        return outcome_log_likelihood(log, treated, untreated)

    def _check(self) -> None:
        """Check the parameters; a subclass adds its own."""
        check_seed(self.seed)
        check_flag(self.progress, "progress")
        if self.max_rows is not None:
            check_count(self.max_rows, "max_rows", least=2)

    def _fit_effects(self, log: IncentiveLog) -> None:
        """Fit a log of features; its ``encoder`` tells categories from numbers, as in a table."""
        raise NotImplementedError

    def _effects(self, x: NDArray[np.float64], names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        """Predict what is named, :data:`CATE` or one of :data:`PAID`, each of shape (n,)."""
        raise NotImplementedError

    def _arm_means(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict E[Y|T=1,x] and E[Y|T=0,x], each of shape (n,)."""
        raise NotImplementedError

"""Conventions that all estimators of the library share with those of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.estimators.likelihood import cell_log_likelihood
from cfmtl_lib.logs.alignment import index_of
from cfmtl_lib.logs.encoding import FeatureRows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.outcomes import outcome_columns
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.logs.schema import InputSchema
from cfmtl_lib.logs.tables import is_table
from cfmtl_lib.policy.arguments import check_costs
from cfmtl_lib.policy.origin import TrainingRows, learned
from cfmtl_lib.policy.rewards import expected_reward
from cfmtl_lib.runtime.registry import ESTIMATORS, key_of


def as_log(
    x: IncentiveLog | ParquetLog | FeatureRows, y: ArrayLike | None = None, pairs: bool | None = None
) -> IncentiveLog | ParquetLog:
    """Make a log of x and y; see :meth:`~cfmtl_lib.logs.incentive_log.IncentiveLog.from_xy`."""
    if not isinstance(x, ParquetLog):
        return IncentiveLog.from_xy(x, y, pairs=pairs)
    if y is not None:
        raise LogError("y", expected="none, as the log holds the outcomes", found="another y")
    return x


def labels_of(x: IncentiveLog | FeatureRows) -> pd.Index | None:
    """Return the labels of the rows of x, which a Series beside it has to match."""
    return x.index if isinstance(x, IncentiveLog) else index_of(x)


def _with_training_rows(predict_reward: Callable[..., NDArray]) -> Callable[..., NDArray]:
    """Let rewards remember the rows that the model was fitted to; see :mod:`cfmtl_lib.policy.origin`."""

    @wraps(predict_reward)
    def predict(self: LogEstimator, *arguments: Any, **options: Any) -> NDArray:
        if getattr(self, "conversions_of_money_", False) and options.get("conversion_value") is None:
            _refuse_costs_in_money(type(self).__name__, arguments)
        values = predict_reward(self, *arguments, **options)
        return learned(values, getattr(self, "training_rows_", None))

    return predict


def _refuse_costs_in_money(name: str, arguments: tuple[Any, ...]) -> None:
    """Refuse a prediction in conversions from a model of a log whose costs are in money."""
    if len(arguments) < 4 or arguments[3] is None:  # x, scenario, cost, conversion_value
        raise InputError(
            "conversion_value",
            expected=f"the value of a conversion, as {name} predicts conversions and its log is in money",
            found="none",
            advice="Give the mean margin of a conversion, or that of each row; DRLearner predicts money.",
        )


class LogEstimator(BaseEstimator):
    """Base class of the estimators, which are fitted to a log and predict at x.

    Defining a subclass, ``class Mine(LogEstimator, method="Mine")``, registers it. It can then be fitted by
    that name, compared, saved and loaded. Fitted values are attributes that end in an underscore.

    ``fit`` takes an :class:`~cfmtl_lib.logs.incentive_log.IncentiveLog`, or x and y as scikit-learn passes
    them. The columns of y are incentive given, collected, converted. So ``Pipeline`` and ``GridSearchCV``
    work. ``predict`` gives the reward, ``predict_proba`` the strata and ``score`` the log-likelihood of rows.
    A fold of a search may hold a category that its training rows lack. So these three take an unknown one as
    missing, with a warning. ``predict_reward`` and ``predict_strata`` refuse it.

    Attributes
    ----------
    schema_ : InputSchema
        Schema that x has to match.
    n_features_in_ : int
        Number of features of x.
    feature_names_in_ : ndarray of str
        Names of the features; only where the log was made of a table.
    """

    schema_: InputSchema
    training_rows_: TrainingRows | None

    method: ClassVar[str] = ""
    """Name in tables of methods; classes without one are not found by name."""

    not_saved: ClassVar[tuple[str, ...]] = ()
    """Fitted attributes that a saved model leaves out."""

    fits_amounts: ClassVar[bool] = False
    """Whether rewards are in money if the log has an outcome in money; otherwise they count conversions."""

    cannot_be_saved: ClassVar[str] = ""
    """Parts of fitted models that no file can hold without running code from it; empty where all can."""

    def __init_subclass__(cls, method: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        key = key_of(cls)
        if method and any(other.method == method for k, other in ESTIMATORS.items() if k != key):
            raise InputError("method", expected="a name that no other estimator has", found=repr(method))
        cls.method = method
        ESTIMATORS[key] = cls
        if "predict_reward" in vars(cls):
            setattr(cls, "predict_reward", _with_training_rows(cls.predict_reward))  # noqa: B010

    def remember_input(self, log: IncentiveLog | ParquetLog) -> None:
        """Store the schema of x, and hashes of the rows, from the log that is fitted."""
        self.remember_schema(InputSchema.from_log(log))
        self.training_rows_, self.conversions_of_money_ = None, False
        if isinstance(log, IncentiveLog):
            self.training_rows_ = TrainingRows(log)
            self.conversions_of_money_ = log.outcome is not None and not self.fits_amounts

    def remember_schema(self, schema: InputSchema) -> None:
        """Store the schema of x."""
        self.schema_ = schema
        self.n_features_in_ = schema.n_features
        if schema.encoder is not None:
            self.feature_names_in_ = np.array(schema.encoder.names, dtype=object)

    def predict_reward(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str,
        cost: float | ArrayLike,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Predict the reward of treating each row, by which rows are ranked.

        Parameters
        ----------
        x : IncentiveLog, array_like, DataFrame or (pairs, features)
            The n rows, of the same kind as in the log of ``fit``.
        scenario : {"coupon", "cash"}
        cost : float, or array_like of shape (n,)
            Cost c >= 0 of the incentive, in units of one conversion net of it.
        conversion_value : float, or array_like of shape (n,), optional
            Value of a conversion before the incentive is paid. If given, cost and result are in its units,
            money say. See :func:`~cfmtl_lib.policy.rewards.expected_reward`.

        Returns
        -------
        ndarray of shape (n,), float64

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        InputError
            If x is not what the model was fitted on, or scenario, cost or value are bad.
        """
        raise NotImplementedError

    def predict(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str = "coupon",
        cost: float | ArrayLike = 0.0,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Predict the reward, under scikit-learn's name; at a cost of 0 it is the uplift.

        Parameters
        ----------
        x, scenario, cost, conversion_value
            See :meth:`predict_reward`. At a cost of 0 both scenarios are alike.

        Returns
        -------
        ndarray of shape (n,), float64
        """
        rows = self._known(x)
        if conversion_value is None:  # a subclass from elsewhere need not know it
            return self.predict_reward(rows, scenario, cost)
        return self.predict_reward(rows, scenario, cost, conversion_value)

    def score(self, x: IncentiveLog | FeatureRows, y: ArrayLike | None = None) -> float:
        """Compute the mean log-likelihood of the outcomes of rows, in nats; larger is better.

        Parameters
        ----------
        x : IncentiveLog, or x as in :meth:`predict_reward`
            Rows that the model was not fitted to.
        y : array_like of shape (n, 3), 0/1
            Incentive given, collected, converted; left out if x is a log.
        """
        check_is_fitted(self)
        rows = self._rows_with_outcomes(x, y)
        return float(self._log_likelihood(rows).mean())

    def _log_likelihood(self, log: IncentiveLog) -> NDArray[np.float64]:
        raise NotImplementedError

    def _rows_with_outcomes(self, x: IncentiveLog | FeatureRows, y: ArrayLike | None) -> IncentiveLog:
        if isinstance(x, IncentiveLog):
            return IncentiveLog.from_xy(x, y)
        # Encoded as at fit, not anew.
        outcomes = outcome_columns(y, index_of(x))
        return IncentiveLog(self.schema_.matrix(x, "warn"), *outcomes, encoder=self.schema_.encoder)

    def _known(self, x: IncentiveLog | FeatureRows) -> IncentiveLog | FeatureRows:
        """Encode a table with unknown categories as missing, with a warning; leave any other x as it is."""
        check_is_fitted(self)
        return self.schema_.matrix(x, "warn") if is_table(x) else x

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = False
        tags.target_tags.two_d_labels = True
        return tags


class StrataEstimator(LogEstimator):
    """Base class of the estimators that identify strata."""

    def predict_strata(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        """Predict strata probabilities at x: shape (n, 5), float64; rows sum to 1."""
        raise NotImplementedError

    def predict_reward(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str,
        cost: float | ArrayLike,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Predict the expected reward from the strata; see :meth:`LogEstimator.predict_reward`."""
        p, index = self.predict_strata(x), labels_of(x)
        value = conversion_value
        if value is not None:
            value = check_costs(value, len(p), "conversion_value", index)
        return expected_reward(p, scenario, check_costs(cost, len(p), index=index), value)

    def predict_proba(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        """Predict strata probabilities, under scikit-learn's name for :meth:`predict_strata`."""
        return self.predict_strata(self._known(x))

    def _log_likelihood(self, log: IncentiveLog) -> NDArray[np.float64]:
        return cell_log_likelihood(self.predict_strata(log), log)

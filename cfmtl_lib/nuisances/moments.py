r"""Four conditional means that identify the strata, and their values at the rows of a log.

With :math:`\mu_t(x) = E[Y|T{=}t,x]`, :math:`\kappa(x) = P(C{=}1|T{=}1,x)`,
:math:`\tau(x) = P(C{=}1,Y{=}1|T{=}1,x)` and propensity
:math:`e(x) = P(T{=}1|x)`, each moment is the mean of an outcome Z (Y, C or CY) in one arm A. Three
families of fits, from which the methods take their names, have these targets:

- OR (outcome regression): ``Z``, on the rows of arm A.
- IPS (inverse propensity): ``1{T=A} Z / P(T=A|x)``, on all rows.
- DR (doubly robust): ``m(x) + 1{T=A} (Z - m(x)) / P(T=A|x)``, on all rows, with ``m`` the OR fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.checks import check_flag, check_number, describe, real_number
from cfmtl_lib.errors import InputError, refuse_rows
from cfmtl_lib.logs.alignment import common_index
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import LogRows
from cfmtl_lib.logs.row_arguments import numbers_by_row
from cfmtl_lib.strata import strata_from_moments

FAMILIES = ("OR", "IPS", "DR")
"""Ways to fit a moment: outcome regression, inverse propensity weights, doubly robust."""

PairLog = IncentiveLog | LogRows
"""Log of pairs in memory, or some rows of one in files, with x, t, c, y and cell."""


class Moment(NamedTuple):
    """Conditional mean E[outcome | T = arm, x].

    Attributes
    ----------
    arm : {0, 1}
    outcome : callable
        Function of collected and converted, 0/1 or arrays of them, that returns the outcome.
    """

    arm: int
    outcome: Callable[[NDArray, NDArray], NDArray]

    def observed(self, log: PairLog) -> NDArray[np.int8]:
        """Return the outcome of each row of a log, 0/1, shape (n,)."""
        return self.outcome(log.c, log.y)

    def weights(self, log: PairLog, propensity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the inverse probability of the arm on its rows, 0 on others; shape (n,)."""
        return (log.t == self.arm) / (propensity if self.arm else 1 - propensity)

    def doubly_robust(
        self, log: PairLog, mean: NDArray[np.float64], propensity: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return AIPW pseudo-outcomes, shape (n,).

        Their mean given x is the moment if ``mean`` or ``propensity`` is right.
        """
        return mean + self.weights(log, propensity) * (self.observed(log) - mean)


MOMENTS: dict[str, Moment] = {
    "converted_treated": Moment(1, lambda c, y: y),
    "converted_untreated": Moment(0, lambda c, y: y),
    "collected_treated": Moment(1, lambda c, y: c),
    "collected_and_converted_treated": Moment(1, lambda c, y: c * y),
}
"""Moments in the order of :func:`~cfmtl_lib.strata.strata_from_moments`."""

OUTCOME_MEANS = {"outcome_treated": 1, "outcome_untreated": 0}
"""Means of an outcome in money, by the arm of each."""

CLIP_OF_ESTIMATES = 0.01
"""Default distance that estimated propensities keep from 0 and 1."""


def check_clip_bounds(bounds: object, subject: str = "propensity_clip") -> tuple[float, float]:
    """Return the bounds of a propensity as floats; both e and 1 - e are divided by.

    Raises
    ------
    InputError
        If they are not two numbers with 0 < low < high < 1.
    """
    numbers = [real_number(bound) for bound in bounds] if isinstance(bounds, tuple | list) else []
    if len(numbers) != 2 or not 0 < numbers[0] < numbers[1] < 1:
        raise InputError(
            subject, expected="0 < low < high < 1", found=describe(bounds), advice="Pass (low, high)."
        )
    return numbers[0], numbers[1]


@dataclass(frozen=True, eq=False)
class LogNuisances:
    r"""Propensity and conditional means at each row of a log, from any source.

    Standard errors are valid only if no row was used to fit its own values. Use
    :func:`~cfmtl_lib.nuisances.cross_fitting.crossfit`, or fit on another log.

    Parameters
    ----------
    propensity : array_like of shape (n,), float in [0, 1]
        :math:`e(x) = P(T{=}1|x)`.
    converted_treated, converted_untreated : array_like of shape (n,), float
        :math:`\mu_1(x) = E[Y|T{=}1,x]` and :math:`\mu_0(x) = E[Y|T{=}0,x]`.
    collected_treated : array_like of shape (n,), float
        :math:`\kappa(x) = P(C{=}1|T{=}1,x)`.
    collected_and_converted_treated : array_like of shape (n,), float
        :math:`\tau(x) = P(C{=}1,Y{=}1|T{=}1,x)`.
    propensity_is_known : bool
        Whether the assignment was designed. Known propensities are never clipped by default.
    index : pandas.Index, optional
        Labels of the rows; those of the Series that the nuisances are made of if left out.
    cross_fitted : bool
        Whether no row was used to fit its own values. If not, standard errors come with a warning.
    outcome_treated, outcome_untreated : array_like of shape (n,), float, optional
        Means of the log's outcome in money: E[M | T=1, x] and E[M | T=0, x]. Both, or none.

    Raises
    ------
    InputError
        If shapes or labels differ, a value is missing, or a probability lies outside [0, 1].
    """

    propensity: NDArray[np.float64]
    converted_treated: NDArray[np.float64]
    converted_untreated: NDArray[np.float64]
    collected_treated: NDArray[np.float64]
    collected_and_converted_treated: NDArray[np.float64]
    propensity_is_known: bool = False
    index: pd.Index | None = None
    cross_fitted: bool = True
    outcome_treated: NDArray[np.float64] | None = None
    outcome_untreated: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        columns = {name: getattr(self, name) for name in ("propensity", *MOMENTS)}
        amounts = {name: getattr(self, name) for name in OUTCOME_MEANS if getattr(self, name) is not None}
        if len(amounts) == 1:
            raise InputError(
                "outcome_treated, outcome_untreated", expected="both or none", found=f"{next(iter(amounts))}"
            )
        if self.index is None:
            put(self, "index", common_index(columns | amounts))
        elif not isinstance(self.index, pd.Index):
            raise InputError("index", expected="a pandas.Index, or none", found=describe(self.index))
        n = None
        for name, column in columns.items():
            value = numbers_by_row(name, column, n, self.index)
            n = len(value)
            refuse_rows(
                name,
                (value < -1e-9) | (value > 1 + 1e-9),  # rounding is no mistake
                expected="values in [0, 1]",
                found=value,
                advice="Means of 0/1 outcomes lie in [0, 1]: fit them by a classifier, or clip them.",
            )
            put(self, name, value.clip(0.0, 1.0))
        for name, column in amounts.items():
            put(self, name, numbers_by_row(name, column, n, self.index))
        if self.index is not None and len(self.index) != n:
            raise InputError("index", expected=f"{n} labels", found=str(len(self.index)))
        for name in ("propensity_is_known", "cross_fitted"):
            put(self, name, check_flag(getattr(self, name), name))

    @classmethod
    def from_means(
        cls,
        propensity: ArrayLike,
        means: Mapping[str, ArrayLike],
        *,
        propensity_is_known: bool = False,
        cross_fitted: bool = True,
    ) -> Self:
        """Make nuisances from a propensity and the four means by name (:data:`MOMENTS`).

        Means of an outcome in money (:data:`OUTCOME_MEANS`) may be among them.
        """
        missing = [name for name in MOMENTS if name not in means] if isinstance(means, Mapping) else MOMENTS
        if missing:
            raise InputError(
                "means",
                expected=f"a mapping with {', '.join(MOMENTS)}",
                found=f"none of {', '.join(missing)}",
            )
        values: dict[str, Any] = {name: means[name] for name in (*MOMENTS, *OUTCOME_MEANS) if name in means}
        return cls(
            propensity,  # type: ignore[arg-type]
            **values,
            propensity_is_known=propensity_is_known,
            cross_fitted=cross_fitted,
        )

    of = from_means  # its name in 0.1

    def __len__(self) -> int:
        return len(self.propensity)

    def clipped(self, low: float, high: float) -> Self:
        """Return the same nuisances with the propensity clipped to [low, high], inside [0, 1]."""
        low, high = check_number(low, "low", low=0, high=1), check_number(high, "high", low=low, high=1)
        return replace(self, propensity=self.propensity.clip(low, high))

    def predicted_strata(self) -> NDArray[np.float64]:
        """Compute strata probabilities that the four means imply; shape (n, 5)."""
        return strata_from_moments(**self.means())

    def means(self) -> dict[str, NDArray[np.float64]]:
        """Return the four means by name, each of shape (n,)."""
        return {name: getattr(self, name) for name in MOMENTS}

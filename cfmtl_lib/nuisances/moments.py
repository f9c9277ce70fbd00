"""The four moments that identify the strata, and their values at the rows of a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import LogRows
from cfmtl_lib.strata import strata_from_moments

FAMILIES = ("OR", "IPS", "DR")


PairLog = IncentiveLog | LogRows
"""A log of pairs in memory, or some rows of one in files: with x, t, c, y and cell."""


MOMENTS: dict[str, tuple[int, Callable[[PairLog], NDArray[np.int8]]]] = {
    "converted_treated": (1, lambda log: log.y),
    "converted_untreated": (0, lambda log: log.y),
    "collected_treated": (1, lambda log: log.c),
    "collected_and_converted_treated": (1, lambda log: log.c * log.y),
}
"""Arm and outcome of each moment, in the order of :func:`~cfmtl_lib.strata.strata_from_moments`."""


MOMENT_NAMES = (
    "converted_treated",
    "converted_untreated",
    "collected_treated",
    "collected_and_converted_treated",
)
"""In the order of :func:`~cfmtl_lib.strata.strata_from_moments`."""


CLIP_OF_ESTIMATES = 0.01
"""Estimated propensities are kept this far from 0 and 1 unless told otherwise."""


@dataclass(frozen=True, eq=False)
class LogNuisances:
    r"""Propensity and conditional means at each row of a log; from any source.

    For valid standard errors no row may have helped to fit its own values: see
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

    Raises
    ------
    InputError
        If shapes differ, a value is not finite, or a propensity lies outside [0, 1].
    """

    propensity: NDArray[np.float64]
    converted_treated: NDArray[np.float64]
    converted_untreated: NDArray[np.float64]
    collected_treated: NDArray[np.float64]
    collected_and_converted_treated: NDArray[np.float64]
    propensity_is_known: bool = False

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(np.asarray(self.propensity)))
        for name in ("propensity", *MOMENT_NAMES):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != (n,):
                raise InputError(name, expected=f"shape ({n},), as the propensity", found=f"{value.shape}")
            wrong = ~np.isfinite(value)
            if name == "propensity":
                wrong |= (value < 0) | (value > 1)
            _refuse_first(
                name, wrong, value, "values in [0, 1]" if name == "propensity" else "finite numbers"
            )
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls, propensity: ArrayLike, means: Mapping[str, ArrayLike], *, propensity_is_known: bool = False
    ) -> Self:
        """From a propensity and the four means by name (:data:`MOMENT_NAMES`)."""
        values = {name: np.asarray(means[name], dtype=np.float64) for name in MOMENT_NAMES}
        return cls(
            np.asarray(propensity, dtype=np.float64),
            values["converted_treated"],
            values["converted_untreated"],
            values["collected_treated"],
            values["collected_and_converted_treated"],
            propensity_is_known,
        )

    def __len__(self) -> int:
        return len(self.propensity)

    def clipped(self, low: float, high: float) -> Self:
        """The same with the propensity moved into [low, high]."""
        return replace(self, propensity=self.propensity.clip(low, high))

    def predicted_strata(self) -> NDArray[np.float64]:
        """Strata probabilities that the four means imply; shape (n, 5)."""
        return strata_from_moments(*(getattr(self, name) for name in MOMENT_NAMES))


def _refuse_first(subject: str, wrong: NDArray[np.bool_], value: NDArray, expected: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(subject, expected=expected, found=str(value[row]), row=row)

"""Checks of what policies are made of: policies, costs, payments and strata probabilities."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.checks import check_number, describe
from cfmtl_lib.errors import InputError, UnitWarning, refuse_rows
from cfmtl_lib.logs.alignment import aligned_values
from cfmtl_lib.logs.row_arguments import is_one_number, numbers_by_row, table_at_rows, table_of_numbers
from cfmtl_lib.strata import STRATA


def check_spend(spend: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return payments as an array; check its shape, and that they are finite and >= 0.

    Raises
    ------
    InputError
        If the shape differs or a payment is bad; it names the first such row.
    """
    if len(shape) == 1:
        return numbers_by_row("spend", spend, shape[0], low=0)
    spends = table_of_numbers("spend", spend)
    if spends.shape != shape:
        raise InputError("spend", expected=f"shape {shape}", found=f"shape {spends.shape}")
    wrong = (spends < 0).any(axis=1)
    refuse_rows("spend", wrong, expected="finite numbers >= 0", found=spends.min(axis=1, initial=0.0))
    return spends


def check_strata_probability(
    strata_probability: ArrayLike, n: int | None = None, index: pd.Index | None = None
) -> NDArray[np.float64]:
    """Return strata probabilities as float64 of shape (n, 5), columns of a table by name.

    If the number of rows is given, they have to be as many, and rows of a table are matched with the labels.

    Raises
    ------
    InputError
        If the shape or the names are wrong, a value is not finite, or a row does not sum to 1.
    """
    if n is not None:
        strata_probability = table_at_rows("strata_probability", strata_probability, n, index)
    p = table_of_numbers("strata_probability", strata_probability, STRATA)
    sums = p.sum(axis=1)
    refuse_rows("strata_probability", np.abs(sums - 1) > 1e-4, expected="rows that sum to 1", found=sums)
    return p


def check_policy(
    treat: ArrayLike, n: int, index: pd.Index | None = None, subject: str = "treat"
) -> NDArray[np.float64]:
    """Return a policy as n probabilities.

    Parameters
    ----------
    treat : array_like of shape (n,), bool or float in [0, 1]
        Policy. Integers are refused, 0 and 1 too, for they could be indices of incentives or of rows.
    n : int
        Number of rows.
    index : pandas.Index, optional
        Labels of the rows, which a Series has to match; see
        :func:`~cfmtl_lib.logs.alignment.aligned_values`.
    subject : str
        Name of the argument, for errors.

    Raises
    ------
    InputError
        If it is no policy; it names the first bad row.
    """
    expected = "True/False, or probabilities in [0, 1] as floats"
    values = aligned_values(subject, treat, index, n)
    if isinstance(treat, np.ndarray) and hasattr(treat, "is_arm_index") and values.dtype.kind != "b":
        raise InputError(
            subject,
            expected=expected,
            found="indices of incentives, from allocate_arms",
            advice="Pass arms >= 0 for the rows with any incentive, arms == k for those with incentive k.",
        )
    if values.dtype.kind in "iu":
        raise InputError(
            subject,
            expected=expected,
            found=f"integers (dtype {values.dtype})",
            advice="They could be indices. Pass treat == 1 for 0/1, arms == k for indices of incentives.",
        )
    if values.dtype.kind not in "bf":
        raise InputError(subject, expected=expected, found=_kind_of(values))
    policy = values.astype(np.float64)
    refuse_rows(
        subject,
        ~((policy >= 0) & (policy <= 1)),
        expected="True/False or probabilities in [0, 1]",
        found=policy,
        advice="Turn scores into a policy with cfmtl_lib.allocate.",
    )
    return policy


def _kind_of(values: NDArray) -> str:
    if values.dtype.kind != "O":
        return f"dtype {values.dtype}"
    odd = [value for value in values.tolist() if not isinstance(value, bool | float)]
    return f"{describe(odd[0])} among objects" if odd else "objects of several types"


def check_cost(cost: float, subject: str = "cost") -> float:
    """Return the cost as a float, or raise :class:`InputError` if it is negative or not finite."""
    return check_number(cost, subject, low=0)


def check_costs(
    cost: float | ArrayLike, n: int, subject: str = "cost", index: pd.Index | None = None
) -> float | NDArray[np.float64]:
    """Return one cost for all rows, or one for each of n; check that they are finite and >= 0.

    Raises
    ------
    InputError
        If the shape or labels differ or a cost is bad; it names the first such row.
    """
    if is_one_number(cost):
        return check_cost(cost, subject)  # type: ignore[arg-type]
    return numbers_by_row(subject, cost, n, index, low=0)


def at_rows(numbers: float | NDArray[np.float64] | None, rows: NDArray) -> float | NDArray[np.float64] | None:
    """Return the numbers of some rows, where there is one for each row; one number, or none, is for all."""
    return numbers[rows] if isinstance(numbers, np.ndarray) else numbers


def warn_of_units(
    costs: float | NDArray[np.float64], conversion_value: float | NDArray[np.float64] | None
) -> None:
    """Warn where a cost is above 1 and no value of a conversion is given, or above that value."""
    if conversion_value is None:
        largest = float(np.max(costs, initial=0.0))
        if largest > 1:
            warnings.warn(
                f"cost: {largest:g} without conversion_value is {largest:g} times what a conversion earns "
                "net of its incentive. For a cost in money, pass conversion_value= in the same money.",
                UnitWarning,
                stacklevel=3,
            )
        return
    dearer = np.asarray(costs > np.asarray(conversion_value))
    if dearer.any():
        warnings.warn(
            f"cost: above conversion_value for {dearer.mean():.0%} of the rows: a conversion earns less than "
            "its incentive costs. Both have to be in one unit, the value before the incentive is paid.",
            UnitWarning,
            stacklevel=3,
        )

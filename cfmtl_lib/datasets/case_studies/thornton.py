"""Randomised cash incentive (Thornton, 2008): the table of PyPI's ``causaldata``, and a simulated one.

In Malawi, people who had taken an HIV test drew a voucher of 0 to 300 kwacha, paid when they came for the
result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from cfmtl_lib.checks import check_count, check_seed
from cfmtl_lib.datasets.case_studies.packaged_tables import packaged_file, refuse_values
from cfmtl_lib.logs.columns import numeric_column
from cfmtl_lib.strata import ALWAYS_BUYER, COUPON_BUYER, NEVER_BUYER, STRATA

RAW_COLUMNS = ("villnum", "got", "distvct", "tinc", "any", "age", "hiv2004")
"""Columns of the file."""

DOLLARS_A_KWACHA = 0.009456
"""Dollars per kwacha. The file labels its amounts kwacha, but has dollars: whole multiples of this number."""

SECOND_AREA_FROM = 100
"""First village number of the second group: numbers end at 88 and go on at 100. Nothing in the file says what
the two groups are. The share that got an incentive differs between them."""

AMOUNTS = np.array([0, 10, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 220, 250, 300], dtype=np.float64)
"""Kwacha that the simulated vouchers may be worth."""

_FILE = Path("thornton_hiv") / "thornton_hiv.dta"


@dataclass(frozen=True, eq=False)
class SimulatedTrial:
    """Table like that of the study, with the truth behind it.

    Attributes
    ----------
    raw : DataFrame of n rows
        Columns :data:`RAW_COLUMNS`, for :func:`tidy_cash_trial`.
    stratum : ndarray of shape (n,), int8
        Stratum of each row under the amount that it would draw if offered any; three of the five occur.
    probability : ndarray of shape (n, 5), float64
        P(stratum | what the simulation knows of the row, its village included).
    """

    raw: pd.DataFrame
    stratum: NDArray[np.int8]
    probability: NDArray[np.float64]


def load_thornton(data_dir: str | Path | None = None) -> pd.DataFrame:
    """Load the study, as :func:`tidy_cash_trial` returns it.

    Parameters
    ----------
    data_dir : str or Path, optional
        Folder of ``thornton_hiv.dta``. The file of the installed package ``causaldata`` if left out.

    Returns
    -------
    DataFrame of 4,820 rows

    Raises
    ------
    StudyError
        If there is no file, or it does not hold what it should.
    """
    return tidy_cash_trial(pd.read_stata(thornton_file(data_dir)))


def thornton_file(data_dir: str | Path | None = None) -> Path:
    """Find the file of the study; parameters and errors as in :func:`load_thornton`."""
    return packaged_file("thornton", "causaldata", "0.1.5", _FILE, data_dir)


def tidy_cash_trial(raw: pd.DataFrame) -> pd.DataFrame:
    """Check a table with the study's columns, and give the columns plain names.

    Parameters
    ----------
    raw : DataFrame
        Table with the columns :data:`RAW_COLUMNS`.

    Returns
    -------
    DataFrame
        All rows, with float64 columns, NaN where the file has no value:

        - village (number), area (0, or 1 for villages from number 100 on);
        - offered (0/1: an incentive above 0), amount (kwacha), learnt (0/1: came for the result);
        - distance (km to where results were given), age (years);
        - hiv (0 negative, 1 positive, -1 indeterminate), hiv_positive (0/1).

    Raises
    ------
    StudyError, LogError
        If a column is missing or has a wrong value. The error names the column, what was expected, what was
        found, and the first such row.

    Examples
    --------
    >>> raw = pd.DataFrame({"villnum": [1, 101], "got": [1, 0], "distvct": [0.5, 2], "tinc": [0.9456, 0],
    ...                     "any": [1, 0], "age": [20, None], "hiv2004": [0, 0]})
    >>> tidy_cash_trial(raw)[["village", "area", "offered", "amount", "learnt"]].to_numpy().tolist()
    [[1.0, 0.0, 1.0, 100.0, 1.0], [101.0, 1.0, 0.0, 0.0, 0.0]]
    """
    given = {name: numeric_column(raw, name) for name in RAW_COLUMNS}
    for name, allowed in (("got", (0, 1)), ("any", (0, 1)), ("hiv2004", (-1, 0, 1))):
        _refuse(name, given[name], ~np.isin(given[name], allowed), f"one of {allowed}, or missing")
    for name in ("distvct", "age", "tinc", "villnum"):
        _refuse(name, given[name], given[name] < 0, "numbers >= 0, or missing")
    kwacha = given["tinc"] / DOLLARS_A_KWACHA
    uneven = np.abs(kwacha - 10 * np.round(kwacha / 10)) > 0.01
    _refuse("tinc", given["tinc"], uneven, f"multiples of ten kwacha, of {DOLLARS_A_KWACHA} dollars each")
    unlike = (given["any"] == 1) != (given["tinc"] > 0)
    _refuse("any", given["any"], unlike, "1 where tinc is above 0, and 0 or missing where it is not")
    village, hiv = given["villnum"], given["hiv2004"]
    columns = {
        "village": village,
        "area": np.where(np.isnan(village), np.nan, village >= SECOND_AREA_FROM),
        "offered": given["any"],
        "amount": 10 * np.round(kwacha / 10),
        "learnt": given["got"],
        "distance": given["distvct"],
        "age": given["age"],
        "hiv": hiv,
        "hiv_positive": np.where(np.isnan(hiv), np.nan, hiv == 1),
    }
    return pd.DataFrame({name: np.asarray(values, dtype=np.float64) for name, values in columns.items()})


def simulated_cash_trial(n_villages: int = 60, seed: int = 0) -> SimulatedTrial:
    r"""Draw a trial of the same shape, in which everybody's stratum is known.

    A person learns the result under an offer of a kwacha if a uniform number stays below

    .. math::
        \sigma\bigl(\alpha(x) + 1\{a > 0\} + 0.7 \log(1 + a / 25)\bigr),

    so more money never keeps anybody away. :math:`\alpha` falls with distance, rises with age, and has an
    effect of the village. Vouchers are drawn independently of everything else, more often empty in the second
    area.

    Parameters
    ----------
    n_villages : int
        Number of villages, 10 to 170, with about 24 rows each.
    seed : int

    Returns
    -------
    SimulatedTrial

    Raises
    ------
    InputError
        If there are too few or too many villages.

    Examples
    --------
    >>> trial = simulated_cash_trial(10, seed=1)
    >>> sorted({STRATA[s] for s in trial.stratum})
    ['always buyer', 'coupon buyer', 'never buyer']
    """
    # More villages would run into the numbers of the second area.
    n_villages = check_count(n_villages, "n_villages", least=10, most=170)
    rng = np.random.default_rng(check_seed(seed))
    second = np.arange(n_villages) >= n_villages // 2
    number = np.where(
        second, SECOND_AREA_FROM + np.arange(n_villages) - n_villages // 2, np.arange(n_villages)
    )
    row_village = np.repeat(np.arange(n_villages), rng.integers(12, 37, n_villages))
    n = len(row_village)
    distance = np.maximum(rng.uniform(0, 4.5, n_villages)[row_village] + rng.normal(0, 0.3, n), 0.0)
    age = rng.integers(15, 70, n).astype(np.float64)
    hiv = rng.choice([0.0, 1.0, -1.0], n, p=[0.93, 0.065, 0.005])
    effect = rng.normal(0, 0.3, n_villages)[row_village]
    alpha = -0.2 - 0.45 * (distance - 2) + 0.025 * (age - 35) - 0.3 * (hiv == 1) + effect

    def p_learns(amount: NDArray[np.float64]) -> NDArray[np.float64]:
        return expit(alpha + (amount > 0) + 0.7 * np.log1p(amount / 25))

    if_offered = rng.choice(AMOUNTS[1:], n)
    offered = rng.random(n) < np.where(second[row_village], 0.6, 0.85)
    amount = np.where(offered, if_offered, 0.0)
    luck = rng.random(n)
    learns_anyway, learns_paid = luck < p_learns(np.zeros(n)), luck < p_learns(if_offered)
    stratum = np.where(learns_anyway, ALWAYS_BUYER, np.where(learns_paid, COUPON_BUYER, NEVER_BUYER))
    probability = np.zeros((n, len(STRATA)))
    probability[:, ALWAYS_BUYER] = p_learns(np.zeros(n))
    probability[:, COUPON_BUYER] = p_learns(if_offered) - probability[:, ALWAYS_BUYER]
    probability[:, NEVER_BUYER] = 1 - p_learns(if_offered)

    learnt = (luck < p_learns(amount)).astype(np.float64)
    untested, draw_unknown = rng.random(n) < 0.03, rng.random(n) < 0.02
    learnt[untested] = hiv[untested] = np.nan
    age[rng.random(n) < 0.01] = np.nan
    raw = pd.DataFrame(
        {
            "villnum": (number + 1.0 * ~second)[row_village],
            "got": learnt,
            "distvct": distance,
            "tinc": np.where(draw_unknown, np.nan, amount * DOLLARS_A_KWACHA),
            "any": np.where(draw_unknown, np.nan, offered),
            "age": age,
            "hiv2004": hiv,
        }
    )
    return SimulatedTrial(raw, stratum.astype(np.int8), probability)


def _refuse(name: str, values: NDArray[np.float64], wrong: NDArray[np.bool_], expected: str) -> None:
    refuse_values(name, values, wrong & ~np.isnan(values), expected)  # missing values are in the file

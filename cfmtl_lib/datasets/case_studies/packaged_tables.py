"""Tables that come inside a package: where their file is, and refusal of values that they cannot have."""

from __future__ import annotations

import importlib.util
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.errors import StudyError


def packaged_file(
    dataset: str, package: str, version: str, file: PurePath, data_dir: str | Path | None
) -> Path:
    """Find the file of a study, in a folder of the caller or inside an installed package.

    The package itself is not imported: it would load much to read one file.

    Parameters
    ----------
    dataset : str
        Name of the study in errors.
    package, version : str
        Package that has the file, and a version that does.
    file : path
        Path of the file inside the package; in ``data_dir`` its name is enough.
    data_dir : str or Path, optional
        Folder of the file. The installed package if left out.

    Returns
    -------
    Path

    Raises
    ------
    StudyError
        If there is no such package or no such file.
    """
    subject = f"dataset {dataset!r}"
    if data_dir is not None:
        path, advice = Path(data_dir) / file.name, "Give the folder that holds it."
    else:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise StudyError(
                subject,
                expected=f"the package {package}, which has the study's table",
                found="no such package",
                advice=f"Install it: pip install {package}",
            )
        path, advice = Path(found.submodule_search_locations[0]) / file, f"Take {package} {version}."
    if not path.is_file():
        raise StudyError(subject, expected=f"the file {path.name}", found="no such file", advice=advice)
    return path


def refuse_values(name: str, values: NDArray[np.float64], wrong: NDArray[np.bool_], expected: str) -> None:
    """Raise an error that names the first wrong value of a column, if there is one.

    Raises
    ------
    StudyError
        If any of ``wrong`` is True.
    """
    rows = np.flatnonzero(wrong)
    if rows.size:
        row = int(rows[0])
        raise StudyError(f"column {name!r}", expected=expected, found=f"{values[row]:g}", row=row)

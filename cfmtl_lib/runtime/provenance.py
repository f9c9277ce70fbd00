"""Published numbers as CSV files with their provenance, both written whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from cfmtl_lib.errors import ResultsError
from cfmtl_lib.runtime.devices import numba_version
from cfmtl_lib.runtime.engine_log import EngineLog
from cfmtl_lib.runtime.files import try_folder
from cfmtl_lib.runtime.units import reading_unit, write_unit

VERSIONED = ("cfmtl-companion", "torch", "numpy", "pandas", "scikit-learn", "scipy", "lightgbm")


class RunRecord:
    """Provenance of numbers, recorded from the start of a run to its end.

    The commit is read at the start, since later edits do not change the code that runs.

    Parameters
    ----------
    command : str
        Command that makes the numbers again.
    seeds : sequence of int
        Seeds of the run.
    folder : str or Path, optional
        Folder that the results will go to, tried now by writing a small file.

    Raises
    ------
    ResultsError
        If nothing can be written to the folder.
    """

    def __init__(self, command: str, seeds: Sequence[int], folder: str | Path | None = None) -> None:
        try_folder(folder)
        self._start = time.perf_counter()
        self._facts = {"run": new_run(), "command": command, "seeds": list(seeds), **commit()}
        self._engines = EngineLog()

    def finish(self, data_fingerprint: Mapping[str, str] | str, **more: Any) -> dict[str, Any]:
        """Return the provenance of the whole run.

        Parameters
        ----------
        data_fingerprint : str or mapping
            SHA-256 of the input's content.
        **more
            Further facts, e.g. settings.

        Returns
        -------
        dict
            Facts: run, command, seeds, commit, commit_is_clean, data_fingerprint, wall_seconds, written
            (UTC), engines, versions, machine, and ``more``. ``engines`` lists those that took the steps of
            networks, ``["none"]`` if no network was fitted.
        """
        return {
            **self._facts,
            "data_fingerprint": data_fingerprint,
            "wall_seconds": round(time.perf_counter() - self._start, 1),
            "written": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "engines": sorted(self._engines.engines) or ["none"],
            **environment(),
            **more,
        }


def new_run() -> str:
    """Draw the name of a run: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def environment() -> dict[str, dict[str, Any]]:
    """Describe the versions that numbers depend on, and the machine that computes them."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in VERSIONED}
        | {"numba": numba_version() or "none"},
        "machine": _machine(),
    }


def library_version() -> str:
    """Return the version of the installed library."""
    return importlib.metadata.version("cfmtl-companion")


def checkout() -> Path | None:
    """Return the top folder of the project if the library runs from a checkout of it, else None."""
    top = Path(__file__).resolve().parents[2]
    return top if (top / "pyproject.toml").is_file() and (top / "_toc.yml").is_file() else None


def save_results(
    tables: Mapping[str, pd.DataFrame], folder: str | Path, record: Mapping[str, Any]
) -> list[Path]:
    """Write the tables of one run and their provenance so that a reader finds all old files or all new ones.

    Each table goes to ``<folder>/<name>.csv``. Its provenance and the SHA-256 of the CSV go to
    ``<folder>/<name>.json``, with the run and the names of all its tables. :mod:`cfmtl_lib.runtime.units`
    says what is left when the process is killed. Ctrl-C takes effect after the files are in place.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Tables by name, e.g. ``"table4"``.
    folder : str or Path
        Folder of the files, made if it is not there.
    record : mapping
        Provenance from :meth:`RunRecord.finish`.

    Returns
    -------
    list of Path
        Paths of the files written.

    Raises
    ------
    ResultsError
        If the folder cannot be written to.
    """
    return save_together([(tables, record)], folder)


def save_together(
    parts: Sequence[tuple[Mapping[str, pd.DataFrame], Mapping[str, Any]]], folder: str | Path
) -> list[Path]:
    """Write tables of several records as those of one run; see :func:`save_results`.

    Parameters
    ----------
    parts : sequence of (mapping of str to DataFrame, mapping)
        Tables and their provenance. The run is that of the first.
    folder : str or Path
        Folder of the files, made if it is not there.

    Returns
    -------
    list of Path
        Paths of the files written.

    Raises
    ------
    ResultsError
        If the folder cannot be written to.
    """
    run = parts[0][1].get("run") or new_run()
    names = [name for tables, _ in parts for name in tables]
    contents: dict[str, str] = {}
    for tables, record in parts:
        for name, table in tables.items():
            text = table.to_csv(index=False, lineterminator="\n")
            note = {
                "table": f"{name}.csv",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "rows": len(table),
                "run": run,
                "tables_of_run": names,
                **{key: value for key, value in record.items() if key != "run"},
            }
            contents[f"{name}.csv"] = text
            contents[f"{name}.json"] = json.dumps(note, indent=2) + "\n"
    write_unit(folder, contents)
    return [Path(folder) / name for name in contents]


def load_results(folder: str | Path, name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table and its provenance; check that they, and the other tables of the run, belong together.

    Files that were written before runs had names are not compared with others.

    Raises
    ------
    ResultsError
        If a file is missing or unreadable, or the CSV is not the one that the provenance describes. Also if
        another table of the same run was replaced by that of another run.
    """
    with reading_unit(folder) as waiting:
        text, record = _checked(Path(folder), name, waiting)
        for other in record.get("tables_of_run", ()):
            beside = waiting.get(f"{other}.json", Path(folder) / f"{other}.json")
            if other == name or not beside.is_file():
                continue
            run = _provenance(beside).get("run")
            if run != record.get("run"):
                raise ResultsError(
                    f"results {name}",
                    expected=f"{other}.csv of the same run, {record.get('run')}",
                    found=f"that of {'an earlier run' if run is None else f'run {run}'}",
                    advice=f"Write both again: {record.get('command', 'run the notebook of this table')}",
                )
    return pd.read_csv(io.BytesIO(text)), record


def _checked(folder: Path, name: str, waiting: Mapping[str, Path]) -> tuple[bytes, dict[str, Any]]:
    """Read a CSV that is the one its provenance describes."""
    csv, note = (waiting.get(file, folder / file) for file in (f"{name}.csv", f"{name}.json"))
    for file, path in ((f"{name}.csv", csv), (f"{name}.json", note)):
        if not path.is_file():
            raise ResultsError(
                f"results {name}",
                expected=f"the file {folder / file}",
                found="no such file",
                advice="Run the notebook of this table with results_dir.",
            )
    record = _provenance(note)
    text = _content(csv)
    digest = hashlib.sha256(text).hexdigest()
    if digest != record.get("sha256"):
        raise ResultsError(
            str(folder / f"{name}.csv"),
            expected=f"SHA-256 {record.get('sha256')}, as {name}.json says",
            found=digest,
            advice="The file was edited or comes from another run: run the notebook of this table again.",
        )
    return text, record


def _provenance(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_content(path))
    except ValueError as error:
        raise ResultsError(
            str(path), expected="provenance as JSON", found=str(error), advice=_AGAIN
        ) from error
    if not isinstance(record, dict):
        raise ResultsError(
            str(path), expected="provenance as JSON", found=type(record).__name__, advice=_AGAIN
        )
    return record


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResultsError(
            str(path),
            expected="a file that can be read",
            found=f"{type(error).__name__}: {error.strerror or error}",
            advice="Give yourself the right to read it, or run the notebook of this table again.",
        ) from error


_AGAIN = "The file was damaged or edited: run the notebook of this table again."


def provenance_table(record: Mapping[str, Any]) -> pd.DataFrame:
    """Arrange provenance as a table of texts, a row for each fact.

    Examples
    --------
    >>> provenance_table({"seeds": [0, 1], "versions": {"torch": "2"}})["value"].to_dict()
    {'seeds': '0, 1', 'versions': 'torch 2'}
    """
    flat = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {content}" for name, content in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        flat[key] = str(value)
    return pd.DataFrame({"value": flat})


def commit() -> dict[str, Any]:
    """Read the commit, and whether the sources are unchanged since; None outside a checkout."""
    top = checkout()
    if top is None:
        return {"commit": None, "commit_is_clean": None}

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.decode("utf-8", errors="replace").strip()  # file names, whatever the locale

    # Results themselves may differ: they are what a run is about to replace.
    changed = git("status", "--porcelain", "--", ".", ":!results")
    return {"commit": git("rev-parse", "HEAD"), "commit_is_clean": None if changed is None else not changed}


def _machine() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or "unknown"

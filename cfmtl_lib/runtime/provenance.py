"""Published numbers as CSV files with their provenance, both written whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
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
from cfmtl_lib.runtime.files import replacing_all

VERSIONED = ("cfmtl-companion", "torch", "numpy", "pandas", "scikit-learn", "scipy")


class RunRecord:
    """Provenance of numbers, recorded from the start of a run to its end.

    The commit is read at the start, since later edits do not change the code that runs.

    Parameters
    ----------
    command : str
        Command that makes the numbers again.
    seeds : sequence of int
        Seeds of the run.
    """

    def __init__(self, command: str, seeds: Sequence[int]) -> None:
        self._start = time.perf_counter()
        self._facts = {"command": command, "seeds": list(seeds), **commit()}

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
            Facts: command, seeds, commit, commit_is_clean, data_fingerprint, wall_seconds, written (UTC),
            versions, machine, and ``more``.
        """
        return {
            **self._facts,
            "data_fingerprint": data_fingerprint,
            "wall_seconds": round(time.perf_counter() - self._start, 1),
            "written": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **environment(),
            **more,
        }


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
    """Write tables and their provenance so that a reader finds the old files or the new ones.

    Each table goes to ``<folder>/<name>.csv``. Its provenance and the SHA-256 of the CSV go to
    ``<folder>/<name>.json``. All files are written under temporary names and renamed at the end. Ctrl-C takes
    effect after the renames. If the machine stops between two renames, the digest does not match, and
    :func:`load_results` raises an error.

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
    """
    folder = Path(folder)
    contents: dict[Path, str] = {}
    for name, table in tables.items():
        text = table.to_csv(index=False, lineterminator="\n")
        digest = hashlib.sha256(text.encode()).hexdigest()
        note = {"table": f"{name}.csv", "sha256": digest, "rows": len(table), **record}
        contents[folder / f"{name}.csv"] = text
        contents[folder / f"{name}.json"] = json.dumps(note, indent=2) + "\n"
    with replacing_all(list(contents)) as temporaries:
        for temporary, content in zip(temporaries, contents.values(), strict=True):
            temporary.write_text(content, encoding="utf-8", newline="\n")
    return list(contents)


def load_results(folder: str | Path, name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table and its provenance, and check that they belong together.

    Raises
    ------
    ResultsError
        If a file is missing, or the CSV is not the one that the provenance describes.
    """
    csv, note = Path(folder) / f"{name}.csv", Path(folder) / f"{name}.json"
    for path in (csv, note):
        if not path.is_file():
            raise ResultsError(
                f"results {name}",
                expected=f"the file {path}",
                found="no such file",
                advice="Run the notebook of this table with results_dir.",
            )
    record = json.loads(note.read_text(encoding="utf-8"))
    digest = hashlib.sha256(csv.read_bytes()).hexdigest()
    if digest != record.get("sha256"):
        raise ResultsError(
            str(csv),
            expected=f"SHA-256 {record.get('sha256')}, as {note.name} says",
            found=digest,
            advice="The file was edited or comes from another run: run the notebook of this table again.",
        )
    return pd.read_csv(csv), record


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
            done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

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

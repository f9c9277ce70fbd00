"""Published numbers as files: a CSV, its provenance beside it, both written whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from cfmtl_lib.errors import ResultsError
from cfmtl_lib.runtime.devices import numba_version

VERSIONED = ("cfmtl-companion", "torch", "numpy", "pandas", "scikit-learn", "scipy")


class RunRecord:
    """Where numbers come from, noted from the start of a run to its end.

    The commit is read at the start: it is the code that runs, whatever is edited meanwhile.

    Parameters
    ----------
    command : str
        That makes the numbers again.
    seeds : sequence of int
    """

    def __init__(self, command: str, seeds: Sequence[int]) -> None:
        self._start = time.perf_counter()
        self._facts = {"command": command, "seeds": list(seeds), **commit()}

    def finish(self, data_fingerprint: Mapping[str, str] | str, **more: Any) -> dict[str, Any]:
        """Return the record of the whole run.

        Parameters
        ----------
        data_fingerprint : str or mapping
            SHA-256 of the input's content.
        **more
            Further facts, e.g. settings.

        Returns
        -------
        dict
            command, seeds, commit, commit_is_clean, data_fingerprint, wall_seconds, written (UTC), versions,
            machine, and ``more``.
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
    """Versions of what numbers depend on, and the machine they are computed on."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in VERSIONED}
        | {"numba": numba_version() or "none"},
        "machine": _machine(),
    }


def library_version() -> str:
    """Of the installed library."""
    return importlib.metadata.version("cfmtl-companion")


def checkout() -> Path | None:
    """Top folder of the project if the library runs from a checkout of it, else None."""
    top = Path(__file__).resolve().parents[2]
    return top if (top / "pyproject.toml").is_file() and (top / "_toc.yml").is_file() else None


def save_results(
    tables: Mapping[str, pd.DataFrame], folder: str | Path, record: Mapping[str, Any]
) -> list[Path]:
    """Write tables and their provenance so that a reader finds the old files or the new ones.

    Each table goes to ``<folder>/<name>.csv`` with ``<name>.json`` beside it, which holds the
    provenance and the SHA-256 of the CSV. All are written under temporary names first and renamed
    at the end, with Ctrl-C held back meanwhile. Should the machine itself stop between two renames,
    the digest does not match and :func:`load_results` says so.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        By name, e.g. ``"table4"``.
    folder : str or Path
        Made if it is not there.
    record : mapping
        From :meth:`RunRecord.finish`.

    Returns
    -------
    list of Path
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    try:
        for name, table in tables.items():
            text = table.to_csv(index=False, lineterminator="\n")
            digest = hashlib.sha256(text.encode()).hexdigest()
            note = json.dumps(
                {"table": f"{name}.csv", "sha256": digest, "rows": len(table), **record}, indent=2
            )
            for path, content in ((folder / f"{name}.csv", text), (folder / f"{name}.json", note + "\n")):
                written.append(path)  # first, so that a half-written part is removed too
                _part(path).write_text(content, encoding="utf-8", newline="\n")
        with _interrupts_held_back():
            for path in written:
                os.replace(_part(path), path)
    finally:
        for path in written:
            _part(path).unlink(missing_ok=True)
    return written


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
    """A provenance as readers see it: one row a fact, as text.

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


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.part")


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Deliver Ctrl-C after the block instead of inside it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives it, or may set handlers
        return
    held: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if held:
            signal.raise_signal(signal.SIGINT)


def commit() -> dict[str, Any]:
    """The checked-out commit, and whether the sources are as it has them; None outside a checkout."""
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

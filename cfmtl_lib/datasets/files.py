"""Files of the data sets in the catalog, found or downloaded.

They are looked for in the folder of the caller, else in the user's cache, and only then downloaded. Every
error names the file, the folder and the address.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pooch

from cfmtl_lib.datasets.catalog import DatasetEntry
from cfmtl_lib.errors import RatingsError


def cache_dir() -> Path:
    """Return the folder of downloads, chosen by the operating system's conventions."""
    return Path(pooch.os_cache("cfmtl"))


def git_blob_id(handle: BinaryIO, size: int) -> str:
    r"""Compute the git object id of a file: SHA-1 of ``b"blob <size>\0"`` followed by its ``size`` bytes.

    Examples
    --------
    >>> import io
    >>> git_blob_id(io.BytesIO(b""), 0)
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while block := handle.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def find_file(entry: DatasetEntry, data_dir: str | os.PathLike[str] | None, download: bool) -> Path:
    """Find the file of a data set (the table itself or the zip around it), and download it if need be.

    Parameters
    ----------
    entry : DatasetEntry
    data_dir : path or None
        Folder that holds one of ``entry.places``, or the file itself. None: the cache folder.
    download : bool
        Whether to download into the cache; never done when ``data_dir`` is given.

    Returns
    -------
    Path

    Raises
    ------
    RatingsError
        If there is no such file or the download fails. The error says which file belongs where.
    """
    folder = cache_dir() if data_dir is None else Path(data_dir).expanduser()
    if data_dir is not None and folder.is_file():
        return folder
    for place in entry.places:
        if (folder / place).is_file():
            return folder / place
    target = folder / entry.download_name
    if entry.url is None:
        raise _not_found(
            entry,
            folder,
            f"Get {' and '.join((entry.table, *entry.more_tables))} from {entry.homepage} and put them into "
            f"{folder}" + (", or pass data_dir, the folder that holds them." if data_dir is None else "."),
        )
    by_hand = f"Download {entry.url} (see {entry.homepage}) and put it at {target}"
    if data_dir is None and download:
        return _download(entry, target, by_hand + ", or pass data_dir, the folder that holds it.")
    if data_dir is None:
        advice = by_hand + ", or pass download=True, or data_dir, the folder that holds it."
    else:
        advice = by_hand + ", or leave data_dir out to have it downloaded."
    raise _not_found(entry, folder, advice)


def _not_found(entry: DatasetEntry, folder: Path, advice: str) -> RatingsError:
    found = f"none of them in {folder}" if folder.is_dir() else f"no folder {folder}"
    return RatingsError(entry.name, expected=" or ".join(entry.places), found=found, advice=advice)


def _download(entry: DatasetEntry, target: Path, by_hand: str) -> Path:
    assert entry.url is not None  # else the caller has raised
    try:
        # pooch downloads to a temporary name and moves it only once the downloader has returned and
        # the hash agrees, so an interrupted download is never taken for the file later.
        pooch.retrieve(
            entry.url,
            known_hash=None if entry.sha256 is None else f"sha256:{entry.sha256}",
            fname=target.name,
            path=target.parent,
            downloader=_checked_downloader(entry),
        )
    except Exception as error:  # whatever went wrong on the way, the remedy is the same
        raise RatingsError(
            entry.name,
            expected=f"to download {entry.url}",
            found=f"{type(error).__name__}: {error}".rstrip("."),
            advice=by_hand,
        ) from error
    return target


def _checked_downloader(entry: DatasetEntry) -> Callable[[str, str, object], None]:
    """Make a downloader with a progress bar on stderr that checks what pooch's own hash does not."""
    fetch = pooch.HTTPDownloader(progressbar=True)

    def download(url: str, output_file: str, parent: object) -> None:
        fetch(url, output_file, parent)
        if url.endswith(".zip") and not zipfile.is_zipfile(output_file):
            raise ValueError("what arrived is not a complete zip file")
        if entry.git_blob is not None:
            with open(output_file, "rb") as handle:
                found = git_blob_id(handle, os.path.getsize(output_file))
            if found != entry.git_blob:
                raise ValueError(f"what arrived has git object id {found}, not {entry.git_blob}")

    return download

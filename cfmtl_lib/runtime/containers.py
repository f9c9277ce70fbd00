"""Files of arrays and one header, with a digest over all of it: safetensors, nothing that runs.

Saved models and stored fits are such files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save as to_bytes

from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.runtime.files import write_whole

Arrays = Mapping[str, NDArray]


class Container(NamedTuple):
    """Content of a file.

    Attributes
    ----------
    header : dict
        Values of JSON.
    arrays : mapping of str to ndarray
    digest : str
        SHA-256 of the header and the arrays, in hexadecimal.
    """

    header: dict[str, Any]
    arrays: Arrays
    digest: str


def write_container(path: str | Path, header: Mapping[str, Any], arrays: Arrays) -> str:
    """Write a file whole or not at all, and return its digest.

    Parameters
    ----------
    path : str or Path
    header : mapping
        Values of JSON.
    arrays : mapping of str to ndarray
        Arrays of booleans and numbers.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    packed = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    digest = digest_of(text, packed)
    write_whole(path, to_bytes(packed, metadata={"header": text, "sha256": digest}))
    return digest


def read_container(path: Path, writer: str) -> Container:
    """Read a file and check it against its digest.

    Parameters
    ----------
    path : Path
    writer : str
        Name of what writes such files, for errors.

    Raises
    ------
    ModelFileError
        If it is no such file, or its content is not that of its digest.
    """
    try:
        size = os.path.getsize(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, digest = metadata["header"], metadata["sha256"]
        header = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(header, dict):
            raise ValueError("its header is no dictionary")
    except Exception as error:  # of whatever kind: the bytes are not trusted
        raise ModelFileError(
            str(path),
            expected=f"a file that {writer} wrote",
            found=f"{type(error).__name__}: {error}"[:300],
            advice="Copy it again, or make it again.",
        ) from error
    if digest_of(text, arrays) != digest:
        raise ModelFileError(
            str(path),
            expected="content that its digest belongs to",
            found=f"other content, {size:,} bytes",
            advice="The file was changed or damaged after it was written: do not use it.",
        )
    return Container(header, arrays, digest)


def digest_of(header: str, arrays: Arrays) -> str:
    """Compute the SHA-256 of a header and of names, types, shapes and content of arrays.

    Examples
    --------
    >>> digest_of("", {"a": np.zeros((2, 3))}) == digest_of("", {"a": np.zeros((3, 2))})
    False
    """
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\0{name}\0{array.dtype.str}\0{arrays[name].shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")

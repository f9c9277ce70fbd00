"""Choice of the device: from a name to a ``torch.device``."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import torch

from cfmtl_lib.errors import UnknownNameError

DEVICE_TYPES = ("auto", "cpu", "cuda", "mps", "xpu", "meta")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn ``device`` into a ``torch.device``; "auto" is CUDA where there is a CUDA device, else the CPU.

    Raises
    ------
    UnknownNameError
        If the name is not one of "auto", "cpu", "cuda", "cuda:1", "mps", "xpu", or there is no such device.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if isinstance(device, torch.device):
        return device
    if not isinstance(device, str) or device.split(":")[0] not in DEVICE_TYPES:
        raise UnknownNameError(
            "device", expected="one of 'auto', 'cpu', 'cuda', 'cuda:1', 'mps', 'xpu'", found=repr(device)
        )
    if device == "auto":
        rank = os.environ.get("LOCAL_RANK")  # of the processes that torchrun starts, each has its own GPU
        if rank is not None and torch.cuda.is_available():
            return torch.device(f"cuda:{rank}")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = device.split(":")[0]
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps, "xpu": torch.xpu}.get(kind)
    if backend is not None and not backend.is_available():
        raise UnknownNameError(
            "device",
            expected="a device of this machine",
            found=f"{device!r}, but torch sees no {kind.upper()} device",
            advice="Use device='auto'.",
        )
    try:
        return torch.device(device)
    except RuntimeError as exc:
        raise UnknownNameError(
            "device", expected="a torch device such as 'cuda:1'", found=repr(device), advice=str(exc)
        ) from exc


@cache
def numba_version() -> str | None:
    """Return the version of numba, which compiles fits on the CPU; None if it is not installed."""
    return version("numba") if find_spec("numba") is not None else None

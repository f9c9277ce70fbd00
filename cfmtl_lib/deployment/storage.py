"""Fitted models in one file, without pickle: arrays as safetensors, everything else as JSON in its header.

A file holds the class, its parameters, what x has to be (names of columns and levels of categories included)
and what was learnt; no row of the log. Loading makes objects of this library and, for scikit-learn's
learners, of the types that skops trusts (:data:`~cfmtl_lib.deployment.serialisation.TRUSTED` beside its
own); nothing
in a file is executed. A digest over all content refuses a file that was damaged or changed. Who must be safe
from someone who changes the digest too keeps the fingerprint that :func:`save` returns, and passes it to
:func:`load`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import sklearn
import torch
from safetensors.numpy import save as to_bytes
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.deployment.serialisation import ArrayStore, describe, restore
from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.estimators.baselines import DR, IPS, OR, DRNet, IPSNet, MomentEstimator, Naive, ORNet
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_v1 import CFMTLv1
from cfmtl_lib.estimators.counterfactual import CFDR, CFIPS, CFOR
from cfmtl_lib.logs.schema import InputSchema
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.feature_networks import FeatureConfig
from cfmtl_lib.models.losses import CellWeights
from cfmtl_lib.nuisances.pair_classifier import PairClassifier
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.provenance import library_version

FORMAT = "cfmtl_lib model 1"

SKLEARN = ".".join(sklearn.__version__.split(".")[:2])
"""Learners of another minor version could be read and mean something else."""

CLASSES: dict[str, type[CFMTL | MomentEstimator]] = {
    kind.__name__: kind
    for kind in (CFDR, CFIPS, CFMTL, CFMTLv1, CFOR, DR, IPS, OR, DRNet, IPSNet, Naive, ORNet)
}
CONFIGURATIONS = {kind.__name__: kind for kind in (CellWeights, FeatureConfig, FitConfig)}


def save(model: CFMTL | MomentEstimator, path: str | Path) -> str:
    """Write a fitted model to one file, whole or not at all.

    Parameters
    ----------
    model : fitted estimator of this library
    path : str or Path
        Of the file, ``.safetensors`` by custom; an older one is replaced.

    Returns
    -------
    str
        Fingerprint: SHA-256 of all content, in hexadecimal.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    ModelFileError
        If the model holds a learner that could not be loaded again without running code from the file.

    Examples
    --------
    >>> import cfmtl_lib as cf
    >>> study = cf.simulated_features(2000)
    >>> folder = tempfile.TemporaryDirectory()
    >>> fingerprint = cf.save(cf.CFOR().fit(study.log), folder.name + "/model.safetensors")
    >>> model = cf.load(folder.name + "/model.safetensors", fingerprint=fingerprint)
    >>> model.predict_strata(study.log).shape
    (2000, 5)
    >>> folder.cleanup()
    """
    name = type(model).__name__
    if CLASSES.get(name) is not type(model):
        raise ModelFileError("model", expected=f"one of {', '.join(CLASSES)}", found=name)
    check_is_fitted(model)
    store = ArrayStore()
    header = {
        "format": FORMAT,
        "class": name,
        "versions": {"cfmtl_lib": library_version(), "scikit-learn": SKLEARN},
        "parameters": {key: _plain(key, v, store) for key, v in model.get_params(deep=False).items()},
        "schema": model.schema_.to_dict(),
        "learnt": describe(model, store),
    }
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    digest = _digest(text, store)
    arrays = {key: np.ascontiguousarray(value) for key, value in store.arrays.items()}
    _write_whole(Path(path), to_bytes(arrays, metadata={"header": text, "sha256": digest}))
    return digest


def load(
    path: str | Path,
    *,
    fingerprint: str | None = None,
    schema: InputSchema | None = None,
    device: str = "auto",
) -> CFMTL | MomentEstimator:
    """Read a model that :func:`save` wrote.

    Parameters
    ----------
    path : str or Path
    fingerprint : str, optional
        That :func:`save` returned; a file of another one is refused.
    schema : InputSchema, optional
        That x will have, ``InputSchema.of(log)``; a model of another one is refused.
    device : str
        Where its networks go.

    Returns
    -------
    fitted estimator
        Without the log that it was fitted to, and without ``nuisances_``.

    Raises
    ------
    FileNotFoundError
    ModelFileError
        If the file is none of :func:`save`, is damaged, was changed, or has another fingerprint or schema.
    """
    header, store, digest = _read(Path(path))
    if fingerprint is not None and fingerprint != digest:
        raise ModelFileError(str(path), expected=f"fingerprint {fingerprint}", found=digest)
    found = InputSchema.from_dict(header["schema"])
    if schema is not None and schema != found:
        raise ModelFileError(
            str(path), expected=f"a model of {schema}", found=str(found), advice="Fit it to such a log."
        )
    where = resolve_device(device)
    parameters = {key: _value(v, store) for key, v in header["parameters"].items()}
    model = CLASSES[header["class"]](**{**parameters, "device": device})
    model.schema_ = found
    model.n_features_in_ = found.n_features
    if found.encoder is not None:
        model.feature_names_in_ = np.array(found.encoder.names, dtype=object)
    restore(model, header["learnt"], store, where)
    return model


def _read(path: Path) -> tuple[dict[str, Any], ArrayStore, str]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            store = ArrayStore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        text, digest = metadata["header"], metadata["sha256"]
        header = json.loads(text)
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise ModelFileError(
            str(path),
            expected="a file that cfmtl_lib.save wrote",
            found=f"{type(error).__name__}: {error}",
            advice="Copy it again, or save the model again.",
        ) from error
    if _digest(text, store) != digest:
        raise ModelFileError(
            str(path),
            expected="content that its digest belongs to",
            found="other content",
            advice="The file was changed or damaged after it was written: do not use it.",
        )
    if header.get("format") != FORMAT or header.get("class") not in CLASSES:
        raise ModelFileError(
            str(path),
            expected=f"{FORMAT!r} of a known class",
            found=f"{header.get('format')!r} of {header.get('class')!r}",
            advice="It was written by another version of the library: use that one.",
        )
    written_by = header["versions"]["scikit-learn"]
    if '"kind": "learner"' in text and written_by != SKLEARN:
        raise ModelFileError(
            str(path),
            expected=f"learners of scikit-learn {SKLEARN}, which is installed",
            found=f"those of {written_by}",
            advice=f"Install scikit-learn {written_by}, or fit the model again.",
        )
    return header, store, digest


def _digest(header: str, store: ArrayStore) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(store.arrays):
        array = np.ascontiguousarray(store.arrays[name])
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _plain(name: str, value: Any, store: ArrayStore) -> Any:
    """A parameter as JSON can hold it."""
    kind = type(value).__name__
    if CONFIGURATIONS.get(kind) is type(value):
        fields = {f.name: _plain(f.name, getattr(value, f.name), store) for f in dataclasses.fields(value)}
        return {"kind": kind, "fields": fields}
    if isinstance(value, PairClassifier):
        given = value.get_params(deep=False)
        return {"kind": "PairClassifier", "fields": {k: _plain(k, v, store) for k, v in given.items()}}
    if isinstance(value, BaseEstimator):
        store.put_learner(f"parameter/{name}", value)
        return {"kind": "learner", "array": f"parameter/{name}"}
    if isinstance(value, tuple | list):
        return {"kind": "tuple", "items": [_plain(name, item, store) for item in value]}
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelFileError(f"parameter {name}", expected="a number, text or configuration", found=kind)


def _value(stored: Any, store: ArrayStore) -> Any:
    if not isinstance(stored, dict):
        return stored
    if stored["kind"] == "tuple":
        return tuple(_value(item, store) for item in stored["items"])
    if stored["kind"] == "learner":
        return store.take_learner(stored["array"])
    kinds = {**CONFIGURATIONS, "PairClassifier": PairClassifier}
    return kinds[stored["kind"]](**{k: _value(v, store) for k, v in stored["fields"].items()})

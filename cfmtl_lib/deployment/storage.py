"""Fitted models in one file, without pickle: arrays as safetensors, everything else as JSON in its header.

A file holds the class, its parameters, the schema of x (with names of columns and levels of categories) and
the fitted values. It holds no row of the log. Loading makes objects of this library only. Learners of
scikit-learn may also consist of the types that skops trusts and of
:data:`~cfmtl_lib.deployment.learner_files.TRUSTED`. Nothing in a file is executed.

A model is tried on two made-up rows when it is saved and when it is loaded. So parts that do not work
together are found then.

:func:`load` checks a digest over all content, and so refuses a file that was damaged or changed. An attacker
could change the digest too. Against that, keep the fingerprint that :func:`save` returns, and pass it to
:func:`load`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sklearn
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.deployment.serialisation import Decoder, Encoder
from cfmtl_lib.deployment.trial import try_model
from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.logs.schema import InputSchema
from cfmtl_lib.runtime.containers import Container, read_container, write_container
from cfmtl_lib.runtime.provenance import library_version

FORMAT = "cfmtl_lib model 2"

SKLEARN = ".".join(sklearn.__version__.split(".")[:2])
"""Minor version of scikit-learn; learners of another one could be read with another meaning."""


def save(model: LogEstimator, path: str | Path) -> str:
    """Write a fitted model to one file, whole or not at all.

    Parameters
    ----------
    model : LogEstimator
        Fitted estimator of this library, or of a subclass anywhere.
    path : str or Path
        Path of the file, ``.safetensors`` by custom; an older file is replaced.

    Returns
    -------
    str
        Fingerprint: SHA-256 of all content, in hexadecimal.

    Raises
    ------
    NotFittedError
        If the model is not fitted.
    ModelFileError
        If the model holds a learner that could not be loaded again without running code from the file, or
        the file cannot be written.

    Examples
    --------
    >>> import cfmtl_lib as cf
    >>> study = cf.simulated_features(2000)
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> fingerprint = cf.save(cf.CFOR().fit(study.log), folder.name + "/model.safetensors")
    >>> model = cf.load(folder.name + "/model.safetensors", fingerprint=fingerprint)
    >>> model.predict_strata(study.log).shape
    (2000, 5)
    >>> folder.cleanup()
    """
    if not isinstance(model, LogEstimator):
        raise ModelFileError("model", expected="an estimator of logs", found=type(model).__name__)
    check_is_fitted(model)
    encoder = Encoder()
    header = {
        "format": FORMAT,
        "versions": {"cfmtl_lib": library_version(), "scikit-learn": SKLEARN},
        "model": encoder.estimator(model),
        "trial": try_model(model) is None,
    }
    try:
        return write_container(path, header, encoder.arrays)
    except OSError as error:
        raise ModelFileError(
            str(path),
            expected="the path of a file that can be written",
            found=f"{type(error).__name__}: {error.strerror or error}",
            advice="Name another path, or make room and give yourself the right to write there.",
        ) from error


def load(
    path: str | Path,
    *,
    fingerprint: str | None = None,
    schema: InputSchema | None = None,
    device: str = "auto",
) -> LogEstimator:
    """Read a model that :func:`save` wrote.

    Parameters
    ----------
    path : str or Path
    fingerprint : str, optional
        Fingerprint that :func:`save` returned; a file with another one is refused.
    schema : InputSchema, optional
        Schema that x will have, ``InputSchema.from_log(log)``; a model with another one is refused.
    device : str
        Device of its networks.

    Returns
    -------
    fitted estimator
        Estimator without the log that it was fitted to, and without ``nuisances_``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If :func:`save` did not write the file, it was damaged or changed, or fingerprint or schema differ.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    container = read_container(path, "cfmtl_lib.save")
    if fingerprint is not None and fingerprint != container.digest:
        raise ModelFileError(str(path), expected=f"fingerprint {fingerprint}", found=container.digest)
    decoder = Decoder(container.arrays, device)
    try:
        header = _checked(container, path)
        found = InputSchema.from_dict(header["model"]["schema"])
        if schema is not None and schema != found:
            raise ModelFileError(
                str(path), expected=f"a model of {schema}", found=str(found), advice="Fit it to such a log."
            )
        model = decoder.estimator(header["model"])
        problem = try_model(model)
        if problem is not None and (header.get("trial") is True or not isinstance(problem, ValueError)):
            raise problem  # parts that do not work together
        return model
    except ModelFileError:
        raise
    except Exception as error:  # of whatever kind: the file is not trusted
        raise ModelFileError(
            str(path),
            expected="the parts of a fitted model",
            found=f"{type(error).__name__}: {error}"[:300],
            advice="The file was not written by cfmtl_lib.save: do not use it.",
        ) from error


def _checked(container: Container, path: Path) -> dict[str, Any]:
    """Return the header of a file whose format and learners can be read here."""
    header = container.header
    if header.get("format") != FORMAT:
        raise ModelFileError(
            str(path),
            expected=repr(FORMAT),
            found=repr(header.get("format"))[:100],
            advice="It was written by another version of the library: use that one.",
        )
    versions = header.get("versions")
    written_by = versions.get("scikit-learn") if isinstance(versions, dict) else None
    if '"kind": "learner"' in json.dumps(header) and written_by != SKLEARN:
        raise ModelFileError(
            str(path),
            expected=f"learners of scikit-learn {SKLEARN}, which is installed",
            found=f"those of {written_by}",
            advice=f"Install scikit-learn {written_by}, or fit the model again.",
        )
    return header

"""Learners of scikit-learn as bytes, in the format of skops, and back.

skops looks at the types that a file names, not at their content. Arrays can ask for more memory than exists.
Members can unpack to a thousand times their size. Nodes can lie outside their tree. Here all of that is
looked at before anything is made.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import IO, Any

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from cfmtl_lib.deployment.learner_checks import check_object, check_tree_nodes
from cfmtl_lib.errors import ModelFileError

TRUSTED = (
    "functools.partial",
    "numpy.dtype",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "scipy.interpolate._bsplines.BSpline",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils.validation.check_array",
)
"""Types of scikit-learn's own learners that skops does not trust by itself. A partial is trusted as a
container: what it calls is checked as well."""

SMALL = 1 << 26
"""Bytes that every file may unpack to."""

LARGEST_RATIO = 200
"""Largest ratio of unpacked to packed bytes beyond :data:`SMALL`; trees pack to a tenth of their size."""

DEEPEST = 150
"""Largest depth of nested values."""

_TREE = "sklearn.tree._tree.Tree"

_PLAIN = ("builtins.str", "builtins.int", "builtins.float", "builtins.bool")

_KINDS: dict[str, Callable[[str], bool]] = {
    "JsonNode": lambda name: name == "builtins.str",
    "DictNode": lambda name: (
        name in ("builtins.dict", "collections.OrderedDict", "sklearn.utils._bunch.Bunch")
    ),
    "ListNode": lambda name: name == "builtins.list",
    "TupleNode": lambda name: name == "builtins.tuple",
    "SetNode": lambda name: name == "builtins.set",
    "SliceNode": lambda name: name == "builtins.slice",
    "TypeNode": lambda name: name in _PLAIN or name.startswith("numpy."),
    "NdArrayNode": lambda name: name.startswith("numpy."),
    "MaskedArrayNode": lambda name: name.startswith("numpy.ma."),
    "DTypeNode": lambda name: name == "numpy.dtype",
    "FunctionNode": lambda name: True,  # skops trusts functions of numpy and scipy, and those of TRUSTED
    "PartialNode": lambda name: name == "functools.partial",
    "RandomStateNode": lambda name: name == "numpy.random.mtrand.RandomState",
    "RandomGeneratorNode": lambda name: name == "numpy.random._generator.Generator",
    "LossNode": lambda name: name.startswith("sklearn._loss._loss.Cy"),
    "TreeNode": lambda name: name == _TREE,
    "ObjectNode": lambda name: name != _TREE,
}
"""Classes that each kind of node of skops may make; other kinds are not read."""


def learner_to_bytes(learner: BaseEstimator) -> bytes:
    """Write a learner as bytes.

    Raises
    ------
    ModelFileError
        If it holds types that could not be read again.
    """
    written = skops.io.dumps(learner, compression=zipfile.ZIP_DEFLATED)
    _refuse_untrusted(written, type(learner).__name__)
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        _Reader(archive, len(written)).check()
    return written


def learner_from_bytes(written: bytes, name: str) -> BaseEstimator:
    """Make a learner from bytes, after they were checked.

    Parameters
    ----------
    written : bytes
        Result of :func:`learner_to_bytes`.
    name : str
        Name of the learner in errors.

    Raises
    ------
    ModelFileError
        If the bytes are damaged, name other types, or ask for more memory than they may. Also if they hold
        values that scikit-learn would follow out of its arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(written)) as archive:
            _Reader(archive, len(written)).check()
        _refuse_untrusted(written, name)
        learner = skops.io.loads(written, trusted=list(TRUSTED))
        if not isinstance(learner, BaseEstimator):
            raise ModelFileError(name, expected="a learner of scikit-learn", found=type(learner).__name__)
        check_object(learner)
    except ModelFileError:
        raise
    except Exception as error:  # of whatever kind: the bytes are not trusted
        raise ModelFileError(
            name,
            expected="a learner that skops wrote",
            found=f"{type(error).__name__}: {error}"[:300],
            advice="The file was damaged or changed: do not use it.",
        ) from error
    return learner


def _refuse_untrusted(written: bytes, subject: str) -> None:
    strange = sorted(set(skops.io.get_untrusted_types(data=written)) - set(TRUSTED))
    if strange:
        raise ModelFileError(
            subject,
            expected="learners made of scikit-learn's own parts",
            found=", ".join(strange),
            advice="Other types could run code when they are loaded.",
        )


@cache
def _protocol() -> int:
    """Return the number of the format that the installed skops writes."""
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(0))) as archive:
        return json.loads(archive.read("schema.json"))["protocol"]


class _Reader:
    """Reader of an archive of skops that makes no objects but arrays.

    Parameters
    ----------
    archive : zipfile.ZipFile
    size : int
        Bytes of the archive.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self.archive = archive
        self.members: Mapping[str, int] = _members(archive, max(SMALL, LARGEST_RATIO * size))
        self.left = max(SMALL, LARGEST_RATIO * size)

    def check(self) -> None:
        """Check all that the archive says, and the arrays that it names."""
        schema = json.loads(self.archive.read("schema.json"))
        if not isinstance(schema, dict) or schema.get("protocol") != _protocol():
            raise ModelFileError(
                "learner",
                expected=f"format {_protocol()} of skops, which is installed",
                found=repr(schema.get("protocol") if isinstance(schema, dict) else schema)[:100],
                advice="Install the version of skops that wrote it, or fit the model again.",
            )
        self.names = _names_of(schema)
        for node in _nodes(schema):
            self._check_node(node)

    def _check_node(self, node: Mapping[str, Any]) -> None:
        kind, name = node["__loader__"], f"{node['__module__']}.{node['__class__']}"
        if kind not in _KINDS or not _KINDS[kind](name):
            raise ModelFileError(
                "learner",
                expected="learners made of scikit-learn's own parts",
                found=f"{name}, as {kind}",
                advice="Other types could run code when they are loaded.",
            )
        if kind == "JsonNode" and not isinstance(node["content"], str):
            raise ModelFileError("learner", expected="text", found=type(node["content"]).__name__)
        if kind == "NdArrayNode" and node["type"] == "numpy":
            self._check_array(node["file"])
            if "__id__" not in node or node is self.names[node["__id__"]][0]:  # one name is read once
                self.left -= self.members[node["file"]]
        if self.left < 0:
            raise ModelFileError("learner", expected="arrays of the size of the file", found="larger ones")
        if kind == "RandomGeneratorNode":
            seeds = self.value(node["content"]["seed_seq"])
            if seeds.get("pool_size", 4) != 4:
                raise ModelFileError("learner", expected="pool_size 4", found=repr(seeds["pool_size"])[:100])
        if kind == "TreeNode":
            arguments = self.value(node["__reduce__"]["args"])
            check_tree_nodes(*arguments, **self.value(node["content"]))

    def _check_array(self, name: str) -> None:
        with self.archive.open(name) as file:
            shape, _, dtype = _array_header(file)
            held = self.members[name] - file.tell()
        if dtype.hasobject or dtype.kind not in "biufUSV":
            raise ModelFileError("learner", expected="arrays of numbers and texts", found=f"dtype {dtype}")
        if len(shape) > 32 or math.prod(shape) * dtype.itemsize != held or max(shape, default=0) > 1 << 40:
            raise ModelFileError(
                "learner", expected=f"an array of {held:,} bytes", found=f"{dtype} of shape {shape}"[:200]
            )

    def value(self, node: Mapping[str, Any]) -> Any:
        """Make a plain value: numbers, texts, arrays, and lists and dictionaries of these."""
        kind = node["__loader__"]
        if kind == "JsonNode":
            return json.loads(node["content"])
        if "__id__" in node and any(other != node for other in self.names[node["__id__"]]):
            # skops would put the other in its place.
            raise ModelFileError("learner", expected="parts with names of their own", found="two of one name")
        if kind in ("ListNode", "TupleNode"):
            return [self.value(item) for item in node["content"]]
        if kind == "DictNode":
            return {key: self.value(item) for key, item in node["content"].items()}
        if kind == "NdArrayNode" and node["type"] == "numpy":
            self._check_array(node["file"])
            array: NDArray = np.load(io.BytesIO(self.archive.read(node["file"])), allow_pickle=False)
            return array if node["__class__"] == "ndarray" else array[()]
        raise ModelFileError("learner", expected="plain values", found=repr(kind)[:100])


def _members(archive: zipfile.ZipFile, most: int) -> dict[str, int]:
    """Return the unpacked bytes of the members, which may not be more than ``most`` together."""
    sizes: dict[str, int] = {}
    for member in archive.infolist():
        is_known = member.filename == "schema.json" or member.filename.endswith(".npy")
        if not is_known or member.filename in sizes or member.flag_bits & 1:
            raise ModelFileError(
                "learner", expected="a schema and arrays, each once", found=repr(member.filename)[:100]
            )
        sizes[member.filename] = member.file_size
    if sum(sizes.values()) > most:
        raise ModelFileError(
            "learner", expected=f"at most {most:,} bytes", found=f"{sum(sizes.values()):,} bytes, unpacked"
        )
    return sizes


def _nodes(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give all nodes, each before those inside it."""
    waiting: list[tuple[Any, int]] = [(schema, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ModelFileError("learner", expected=f"at most {DEEPEST} levels", found="a deeper nesting")
        if isinstance(value, dict):
            if "__loader__" in value:
                yield value
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            waiting += [(item, depth + 1) for item in value]


def _names_of(schema: Mapping[str, Any]) -> dict[Any, list[Mapping[str, Any]]]:
    """Collect nodes by their names; skops makes those of one name once, and puts it in the place of all.

    Raises
    ------
    ModelFileError
        If a node would hold itself, or nodes that hold one another would be looked at without end.
    """
    names: dict[Any, list[Mapping[str, Any]]] = {None: []}
    n_nodes = 0
    for node in _nodes(schema):
        same = names.setdefault(node.get("__id__"), [])
        same.append(node)
        n_nodes += 1
        first = same[0]
        is_leaf = node["__loader__"] in ("JsonNode", "NdArrayNode")
        kinds = [(each["__loader__"], each["__module__"], each["__class__"]) for each in (first, node)]
        if "__id__" in node and (kinds[0] != kinds[1] or (is_leaf and first != node)):
            raise ModelFileError("learner", expected="parts with names of their own", found="two of one name")
    looks: dict[Any, int] = {}

    def look(name: Any, node: Mapping[str, Any]) -> int:
        """Count how often skops looks at what a node holds."""
        if name is not None and name in looks:
            if looks[name] == 0:
                raise ModelFileError("learner", expected="parts inside others", found="a part inside itself")
            return looks[name]
        if name is not None:
            looks[name] = 0
        of_each = [
            1 + sum(look(inner.get("__id__"), inner) for inner in _nodes_inside(each))
            for each in ([node] if name is None else names[name])
        ]
        if max(of_each) > 10 * n_nodes + 1000:
            raise ModelFileError("learner", expected=f"at most {n_nodes} parts", found="parts without end")
        if name is not None:
            looks[name] = max(of_each)
        return max(of_each)

    look(schema.get("__id__"), schema)
    return names


def _nodes_inside(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give the nodes that a node holds itself."""
    waiting = list(node.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and "__loader__" in value:
            yield value
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ModelFileError("learner", expected="arrays in format 1 or 2 of numpy", found=str(version))

"""Files of arrays and a header: the digest is over all of it."""

import json

import numpy as np
import pytest
import safetensors.numpy

from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.runtime.containers import digest_of, read_container, write_container
from cfmtl_lib.runtime.values import ValueDecoder, ValueEncoder

A, B = np.arange(6, dtype=np.int32), np.ones(6, dtype=np.int32)
CONTENT = {"a": A, "b": B}


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "file"
    digest = write_container(path, {"x": [1, None]}, {"a": A.reshape(2, 3).T, "empty": np.zeros((0, 3))})
    found = read_container(path, "a test")
    assert (found.header, found.digest) == ({"x": [1, None]}, digest)
    np.testing.assert_array_equal(found.arrays["a"], A.reshape(2, 3).T)
    assert found.arrays["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    "header, arrays",
    [
        ("{}", {"a": B, "b": A}),
        ("{}", {"a": A, "c": B}),
        ("{}", {"a": A.reshape(2, 3), "b": B}),
        ("{}", {"a": A.view(np.uint32), "b": B}),
        ("{}", {"a": A.view(np.float32), "b": B}),
        ("{}", {"a": A + 1, "b": B}),
        ("{}", {"a": A}),
        ("{} ", CONTENT),
    ],
)
def test_the_digest_is_of_names_types_shapes_content_and_header(header, arrays):
    assert digest_of(header, arrays) != digest_of("{}", CONTENT)
    assert digest_of("{}", dict(reversed(CONTENT.items()))) == digest_of("{}", CONTENT)


def with_header(text, arrays=CONTENT):
    return safetensors.numpy.save(arrays, metadata={"header": text, "sha256": digest_of(text, arrays)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        (1 << 60).to_bytes(8, "little") + b"{}",
        safetensors.numpy.save(CONTENT),
        with_header("[1]"),
        with_header("{"),
        with_header('{"a": NaN}'),
        with_header("[" * 100_000),
        with_header('{"a": ' + "9" * 5000 + "}"),
    ],
)
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ModelFileError, match="expected a file that a test wrote"):
        read_container(tmp_path / "file", "a test")


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 62, 4], [-1], [6, 1 << 62], ["a"]])
def test_a_header_cannot_ask_for_more_than_the_file_holds(shape, tmp_path):
    header = {
        "a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]},
        "__metadata__": {"header": "{}"},
    }
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    with pytest.raises(ModelFileError, match="expected a file that a test wrote"):
        read_container(tmp_path / "file", "a test")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ModelFileError, match="expected a file that a test wrote"):
        read_container(tmp_path, "a test")


@pytest.mark.parametrize(
    "stored, message",
    [
        ([1], "expected an encoded value, found list"),
        ({"kind": "call"}, "a known kind of value"),
        ({"kind": "array", "name": "x"}, "expected the array 'x'"),
        ({"kind": "array", "name": []}, "expected the array"),
        ({"kind": "part", "class": [], "parts": {}}, "no such class"),
        ({"kind": "part", "class": "History", "parts": {"los": 1}}, "expected the parts of this class"),
        ({"kind": "part", "class": "AdditiveNetwork", "parts": {}}, "expected the parts of this class"),
    ],
)
def test_values_that_no_encoder_gave_are_refused(stored, message):
    with pytest.raises(ModelFileError, match=message):
        ValueDecoder({}, None).value(stored)


def test_values_come_back_equal():
    value = {"a": [1, 2.5, None, True, "ä"], "b": (float("-inf"), np.float64(0.1), np.int64(3)), "c": {}}
    encoder = ValueEncoder()
    stored = json.loads(json.dumps(encoder.value(value, "v"), allow_nan=False))
    assert ValueDecoder(encoder.arrays, None).value(stored) == value

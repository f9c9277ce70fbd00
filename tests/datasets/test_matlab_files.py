"""Ratings in sparse MATLAB matrices, and the catalog's data set that comes so."""

import dataclasses

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_array

from cfmtl_lib.datasets.catalog import CATALOG, content_fingerprint
from cfmtl_lib.datasets.ratings import load_ratings
from cfmtl_lib.datasets.tables.matlab_files import read_matrices
from cfmtl_lib.errors import RatingsError
from cfmtl_lib.experiments.paper import comparison
from cfmtl_lib.experiments.paper.reported import compare_with_reported, reported_table4
from cfmtl_lib.runtime.provenance import save_results

TRAIN = [(0, 1, 5), (2, 0, 3), (1, 3, 4)]
TEST = [(0, 0, 1), (2, 3, 4)]


def matrix(rows, shape=(3, 4)):
    user, item, rating = zip(*rows, strict=True)
    return csc_array((np.array(rating, dtype=float), (user, item)), shape=shape)


@pytest.fixture
def files(tmp_path):
    """Training and test part, in the names of the catalog."""
    paths = [tmp_path / "train_yelp.mat", tmp_path / "test_yelp.mat"]
    for path, rows in zip(paths, (TRAIN, TEST), strict=True):
        savemat(path, {f"{path.stem}_Matrix": matrix(rows)})
    return paths


@pytest.fixture
def small(monkeypatch):
    entry = dataclasses.replace(
        CATALOG["yelp-dfm"],
        **{"n_users": 3, "n_items": 4, "n_rows": 5, "n_positive": 3},
        fingerprint=content_fingerprint(*zip(*TRAIN, *TEST, strict=True)),
    )
    monkeypatch.setitem(CATALOG, "yelp-dfm", entry)


def test_ratings_are_the_union_of_both_parts(files, small, tmp_path):
    ratings = load_ratings("yelp-dfm", tmp_path)
    found = set(zip(ratings.user.tolist(), ratings.item.tolist(), ratings.rating.tolist(), strict=True))
    assert found == {*TRAIN, *TEST}
    assert (ratings.n_users, ratings.n_items, ratings.threshold) == (3, 4, 3.0)
    assert ratings.fingerprint == CATALOG["yelp-dfm"].fingerprint
    assert load_ratings("yelp-dfm", files[0]).fingerprint == ratings.fingerprint  # the file itself


def test_a_stored_zero_is_an_entry_and_numbers_become_floats(tmp_path):
    stored = csc_array((np.array([0.0, 2.0]), np.array([1, 0]), np.array([0, 1, 2, 2])), shape=(2, 3))
    savemat(tmp_path / "a.mat", {"m": stored})
    frame = read_matrices([tmp_path / "a.mat"])
    assert frame.to_numpy().tolist() == [[1, 0, 0], [0, 1, 2]]
    assert frame.dtypes.astype(str).tolist() == ["int64", "int64", "float64"]


def write(path, what):
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        savemat(path, what)


BROKEN = {
    "text": (b"user,item,rating\n" * 20, "expected a MATLAB file of version 4 to 7, found"),
    "nothing": (b"", "expected a MATLAB file of version 4 to 7, found"),
    "HDF5": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400), "save it with -v7"),
    "dense": ({"m": np.eye(3)}, "expected a sparse matrix of real numbers, found m, ndarray of float64"),
    "complex": ({"m": matrix(TEST) * 1j}, "expected a sparse matrix of real numbers, found m, .*complex128"),
    "two": ({"m": matrix(TEST), "k": matrix(TRAIN)}, "expected one variable, a sparse matrix, found m, k"),
    "none": ({}, "expected one variable, a sparse matrix, found none"),
    "shape": ({"m": matrix(TEST, (3, 5))}, r"of one shape, \(users, items\), found \(3, 4\) and \(3, 5\)"),
    "overlap": (
        {"m": matrix([(1, 3, 2), *TEST])},
        r"once, in one of the files, found \(1, 3\) again, in train_yelp.mat and test_yelp.mat; 1 in all",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_files_of_other_content_are_refused(kind, files, small, tmp_path):
    what, message = BROKEN[kind]
    write(files[1], what)
    with pytest.raises(RatingsError, match=message):
        load_ratings("yelp-dfm", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_cut_short_is_refused(files, small, tmp_path, packed):
    savemat(files[0], {"m": matrix(TRAIN)}, do_compression=packed)
    whole = files[0].read_bytes()
    for size in (60, 130, 160, len(whole) // 2, len(whole) - 20):
        files[0].write_bytes(whole[:size])
        with pytest.raises(RatingsError, match="expected a MATLAB file of version 4 to 7"):
            load_ratings("yelp-dfm", tmp_path)


def test_both_files_are_asked_for_and_no_download_is_promised(files, small, tmp_path):
    files[1].unlink()
    with pytest.raises(RatingsError, match=r"test_yelp.mat: expected a file, found no such file\. Put it"):
        load_ratings("yelp-dfm", tmp_path)
    files[0].unlink()
    with pytest.raises(RatingsError) as caught:
        load_ratings("yelp-dfm", tmp_path)
    message = f"Get train_yelp.mat and test_yelp.mat from {CATALOG['yelp-dfm'].homepage} and put them into"
    assert f"{message} {tmp_path}." in str(caught.value) and "ownload" not in str(caught.value)


def test_another_file_is_refused_by_its_content(files, small, tmp_path):
    savemat(files[0], {"m": matrix([(0, 1, 4), *TRAIN[1:]])})
    with pytest.raises(
        RatingsError, match=r"content fingerprint: expected .* get it from https://github.com"
    ):
        load_ratings("yelp-dfm", tmp_path)


def test_a_matrix_given_as_a_table_gets_advice(files):
    with pytest.raises(RatingsError, match=r"found a MATLAB file\. Read it with scipy\.io\.loadmat"):
        load_ratings(files[0])


def test_no_printed_number_belongs_to_it(tmp_path):
    rows = reported_table4().query("dataset == 'yelp'").assign(labelling="code", seed=0, dataset="yelp-dfm")
    table = rows.assign(construction=["authors", "document"] * (len(rows) // 2))
    assert compare_with_reported(table, "yelp-dfm").empty
    before = comparison.verdicts(tmp_path)
    save_results({"table4": table}, tmp_path / "yelp-dfm", {"command": "none", "seeds": [0]})
    assert comparison.verdicts(tmp_path).equals(before)
    assert {name for name, entry in CATALOG.items() if entry.in_paper} == set(reported_table4()["dataset"])


def test_paths_may_be_texts_and_none_are_refused(files):
    as_texts = read_matrices([str(path) for path in files])
    assert as_texts.equals(read_matrices(files))
    with pytest.raises(RatingsError, match="paths: expected at least one file, found none"):
        read_matrices([])

"""Ratings and their loaders, on small files in the official formats that the tests write themselves."""

import dataclasses
import hashlib
import io
import math
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest

from cfmtl_lib.datasets.catalog import CATALOG, content_fingerprint
from cfmtl_lib.datasets.files import cache_dir, git_blob_id
from cfmtl_lib.datasets.ratings import Ratings, load_ratings
from cfmtl_lib.datasets.tables import readers
from cfmtl_lib.errors import RatingsError, UnknownNameError

ML1M = [(1, 1, 5), (1, 3, 3), (2, 4, 4), (3, 1, 1), (3, 4, 2)]
YELP = [(0, 1, 4), (0, 1, 2), (1, 0, 5), (2, 1, 3)]
KUAIREC_HEADER = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a failure in place of any download: no test reaches the network."""

    def refuse(url, **options):
        raise ConnectionError("no route to host")

    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder / project)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    return folder / "cfmtl"


def ml1m_text(rows=ML1M):
    return "".join(f"{u}::{i}::{r}::97830{k}\n" for k, (u, i, r) in enumerate(rows))


def yelp_text(rows=YELP):
    return "".join(f"{u}\t{i}\t{r}\t13875{k}\n" for k, (u, i, r) in enumerate(rows))


def kuairec_rows(n_users=5, n_items=8):
    return [(10 + 3 * u, 7 * i, (u * n_items + i) / 16) for u in range(n_users) for i in range(n_items)]


def kuairec_text(rows):
    # In the official file time, date and timestamp are empty in some rows.
    return KUAIREC_HEADER + "".join(
        f"{u},{i},100,200,,,,{r}\n"
        if k % 3
        else f"{u},{i},100,200,2020-07-05 00:08:23.438,20200705,1.5,{r}\n"
        for k, (u, i, r) in enumerate(rows)
    )


def shrink(monkeypatch, name, **changes):
    """Let the catalog describe a small file: the documented way to test the loaders of official files."""
    monkeypatch.setitem(CATALOG, name, dataclasses.replace(CATALOG[name], **changes))


@pytest.fixture
def small_ml1m(monkeypatch):
    fingerprint = content_fingerprint(*zip(*ML1M, strict=True))
    shrink(
        monkeypatch,
        "ml-1m",
        n_users=3,
        n_items=4,
        n_rows=5,
        n_positive=2,
        fingerprint=fingerprint,
        sha256=None,
    )
    return fingerprint


@pytest.fixture
def small_yelp(monkeypatch):
    data = yelp_text().encode()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    shrink(monkeypatch, "yelp", n_users=3, n_items=2, n_rows=4, git_blob=blob)


@pytest.fixture
def small_kuairec(monkeypatch):
    shrink(monkeypatch, "kuairec", n_users=5, n_items=8, n_rows=40)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def write_zip(path: Path, member: str, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other/readme.txt", "read me")
        archive.writestr(member, text)
    return path


# --- the container ---------------------------------------------------------------------------------


def test_ratings_hold_read_only_copies_of_the_documented_types():
    user = np.array([1, 0, 1], dtype=np.int32)
    ratings = Ratings(user, [0, 1, 2], [4, 3, 1], n_users=2, n_items=3, name="tiny")
    user[0] = 0
    assert ratings.user.tolist() == [1, 0, 1]
    assert [getattr(ratings, name).dtype for name in ("user", "item", "rating")] == [np.int64] * 2 + [float]
    assert (ratings.outcome.dtype, ratings.outcome.tolist()) == (np.int8, [1, 0, 0])
    assert (ratings.pairs.dtype, ratings.pairs.tolist()) == (np.int64, [[1, 0], [0, 1], [1, 2]])
    assert (len(ratings), ratings.threshold) == (3, 3.0)
    assert repr(ratings) == "Ratings('tiny': 3 ratings, 2 users x 3 items, 33.3 % above 3)"
    with pytest.raises(ValueError, match="read-only"):
        ratings.rating[0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        ratings.name = "other"
    assert pickle.loads(pickle.dumps(ratings)).fingerprint == ratings.fingerprint


def test_outcome_is_strictly_above_the_threshold_and_one_class_is_allowed():
    ratings = Ratings([0, 0], [0, 1], [0.6, 0.61], n_users=1, n_items=2, threshold=0.6)
    assert ratings.outcome.tolist() == [0, 1]
    assert Ratings([0], [0], [1], n_users=1, n_items=1).outcome.tolist() == [0]


def test_fingerprint_follows_the_documented_formulas():
    table = np.array([[0, 2, 5], [1, 0, 3]], dtype="<i4")
    whole = hashlib.sha256(table.tobytes()).hexdigest()
    assert content_fingerprint([1, 0], [0, 2], [3.0, 5.0]) == whole
    rating = np.array([0.5, 3.0], dtype="<f8")
    mixed = hashlib.sha256(table[:, :2].tobytes() + rating.tobytes()).hexdigest()
    assert content_fingerprint([1, 0], [0, 2], [3.0, 0.5]) == mixed
    assert Ratings([1, 0], [0, 2], [3, 5], n_users=2, n_items=3).fingerprint == whole


GOOD = {"user": [0, 1], "item": [0, 1], "rating": [1.0, 5.0], "n_users": 2, "n_items": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": [[0, 1]]}, r"user: expected integers of shape \(n,\), found int64 of shape \(1, 2\)"),
        ({"user": [0.0, 1.0]}, r"user: expected integers of shape \(n,\), found float64"),
        ({"item": [0, 2]}, r"item: expected ids from 0 to 1, found 2 \(first at row 1\)"),
        ({"item": [-1, 0]}, r"item: .* found -1 \(first at row 0\)"),
        ({"rating": [1.0, math.nan]}, r"rating: expected finite numbers, found nan \(first at row 1\)"),
        ({"rating": [math.inf, 1.0]}, r"rating: .* found inf \(first at row 0\)"),
        ({"rating": ["1", "2"]}, "rating: expected numbers"),
        ({"rating": [1.0]}, "expected one length, found 2, 2, 1"),
        ({"user": [], "item": [], "rating": []}, "expected at least one rating"),
        ({"user": [1, 1], "item": [1, 1]}, r"each pair once, found \(1, 1\) again.*first at row 1"),
        ({"n_users": 0}, "n_users: expected an integer from 1"),
        ({"n_items": 2.0}, "n_items: expected an integer from 1"),
        ({"threshold": math.nan}, "threshold: expected a finite number"),
        ({"user_ids": ["a"]}, r"user_ids: expected shape \(2,\), found shape \(1,\)"),
    ],
)
def test_ratings_refuse(changes, message):
    with pytest.raises(RatingsError, match=message):
        Ratings(**(GOOD | changes))


# --- the official files ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["ratings.dat", "ml-1m/ratings.dat", "ml-1m.zip"])
@pytest.mark.parametrize("straight", [False, True])
def test_ml1m_in_every_packaging(tmp_path, small_ml1m, place, straight):
    path = tmp_path / "data" / place
    if place.endswith(".zip"):
        write_zip(path, "ml-1m/ratings.dat", ml1m_text())
    else:
        write(path, ml1m_text())
    ratings = load_ratings("ml-1m", path if straight else tmp_path / "data")
    assert ratings.pairs.tolist() == [[u - 1, i - 1] for u, i, _ in ML1M]
    assert ratings.rating.tolist() == [r for *_, r in ML1M]
    assert (ratings.n_users, ratings.n_items, ratings.threshold, ratings.name) == (3, 4, 3.0, "ml-1m")
    assert ratings.fingerprint == small_ml1m
    assert (ratings.user_ids.tolist(), ratings.item_ids.tolist()) == ([1, 2, 3], [1, 2, 3, 4])


def test_threshold_can_be_overridden(tmp_path, small_ml1m):
    write(tmp_path / "ratings.dat", ml1m_text())
    ratings = load_ratings("ml-1m", tmp_path, threshold=4)
    assert (ratings.threshold, ratings.outcome.tolist()) == (4.0, [1, 0, 0, 0, 0])


def test_yelp_counts_file_rows_and_then_keeps_the_last_of_each_pair(tmp_path, small_yelp):
    write(tmp_path / "yelp.rating", yelp_text())
    with pytest.warns(UserWarning, match=r"yelp: 1 of 4 rows repeat .* kept the last rating of each, 3 rows"):
        ratings = load_ratings("yelp", tmp_path)
    assert ratings.pairs.tolist() == [[0, 1], [1, 0], [2, 1]]
    assert ratings.rating.tolist() == [2, 5, 3]
    assert ratings.user_ids is None
    assert ratings.fingerprint == content_fingerprint([0, 1, 2], [1, 0, 1], [2, 5, 3])


@pytest.mark.parametrize("zipped", [False, True])
def test_kuairec_is_reindexed_and_a_fifth_is_drawn(tmp_path, small_kuairec, zipped, monkeypatch):
    monkeypatch.setattr(readers, "_CHUNK_ROWS", 7)  # the file is read piecewise
    rows = kuairec_rows()
    if zipped:
        write_zip(tmp_path / "KuaiRec.zip", "KuaiRec/data/small_matrix.csv", kuairec_text(rows))
    else:
        write(tmp_path / "KuaiRec" / "data" / "small_matrix.csv", kuairec_text(rows))
    ratings = load_ratings("kuairec", tmp_path, seed=1)
    assert (len(ratings), ratings.n_users, ratings.n_items) == (8, 5, 8)
    assert ratings.user_ids.tolist() == [10, 13, 16, 19, 22]
    drawn = zip(ratings.user_ids[ratings.user], ratings.item_ids[ratings.item], ratings.rating, strict=True)
    assert set(drawn) < set(rows)
    assert ratings.outcome.tolist() == (ratings.rating > 0.6).astype(int).tolist()
    assert load_ratings("kuairec", tmp_path, seed=1).fingerprint == ratings.fingerprint
    assert load_ratings("kuairec", tmp_path, seed=2).fingerprint != ratings.fingerprint


def test_observed_share_of_the_official_kuairec_file():
    entry = CATALOG["kuairec"]
    assert math.floor(entry.observed_share * entry.n_rows) == 935_314


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ML1M[:-1], r"rows: expected 5, found 4\. This is not the official ratings.dat: get it from https"),
        ([*ML1M[:4], (3, 4, 6)], r"column rating: expected ratings in \[1, 5\], found 6 \(first at row 4\)"),
        ([*ML1M[:4], (3, 0, 2)], r"column item: expected whole numbers from 1 to 4, found 0 .*row 4"),
        ([(-1, 1, 5), *ML1M[1:]], r"column user: expected whole numbers from 1 to 3, found -1 .*row 0"),
        ([*ML1M[:4], (3, 2, 2)], "content fingerprint: expected [0-9a-f]{64}, found [0-9a-f]{64}"),
        ([(1, 1, 3), *ML1M[1:]], "ratings above 3: expected 2, found 1"),
        ([(1, i, r) for _, i, r in ML1M], "largest user id: expected 3, found 1"),
        ([("x", 1, 5), *ML1M[1:]], r"column user: expected a finite number, found 'x' \(first at row 0\)"),
        ([(1, 1, "NaN"), *ML1M[1:]], r"column rating: expected a finite number, found 'NaN' .*row 0"),
        ([(1, 1, ""), *ML1M[1:]], r"column rating: expected a finite number, found a missing value .*row 0"),
    ],
)
def test_a_wrong_or_truncated_ml1m_is_refused(tmp_path, small_ml1m, rows, message):
    write(tmp_path / "ratings.dat", ml1m_text(rows))
    with pytest.raises(RatingsError, match=message):
        load_ratings("ml-1m", tmp_path)


@pytest.mark.parametrize(("line", "found"), [(0, 3), (0, 5), (1, 3), (1, 5), (4, 3), (4, 5)])
def test_a_line_with_too_few_or_too_many_fields_is_named(tmp_path, small_ml1m, line, found):
    lines = ml1m_text().splitlines()
    lines[line] = "1::1::5" if found == 3 else lines[line] + "::0"
    write(tmp_path / "ratings.dat", "\n".join(lines))
    with pytest.raises(RatingsError, match=rf"line {line + 1}: expected 4 fields .*'::', found {found}\."):
        load_ratings("ml-1m", tmp_path)


@pytest.mark.parametrize("line", [8, 9, 14, 15, 20])
@pytest.mark.parametrize("found", [4, 9])
def test_a_malformed_line_is_named_when_read_piecewise(tmp_path, small_kuairec, monkeypatch, line, found):
    monkeypatch.setattr(readers, "_CHUNK_ROWS", 7)
    lines = kuairec_text(kuairec_rows()).splitlines()
    lines[line] = "1,2,3,4" if found == 4 else lines[line] + ",7"
    write(tmp_path / "small_matrix.csv", "\n".join(lines))
    with pytest.raises(RatingsError, match=rf"line {line + 1}: expected 8 fields .*',', found {found}\."):
        load_ratings("kuairec", tmp_path)


def test_a_swapped_yelp_file_is_refused_by_its_git_object_id(tmp_path, small_yelp):
    write(tmp_path / "yelp.rating", yelp_text([*YELP[:3], (2, 1, 4)]))
    with pytest.raises(RatingsError, match=r"git object id: expected [0-9a-f]{40}, found [0-9a-f]{40}"):
        load_ratings("yelp", tmp_path)


def test_kuairec_counts_different_users_and_wants_its_header(tmp_path, small_kuairec):
    rows = kuairec_rows()
    path = write(tmp_path / "small_matrix.csv", kuairec_text([(10, i, r) for _, i, r in rows]))
    with pytest.raises(RatingsError, match="different users: expected 5, found 1"):
        load_ratings("kuairec", tmp_path)
    write(path, kuairec_text(rows).replace("watch_ratio", "ratio"))
    with pytest.raises(
        RatingsError, match="expected a column named 'watch_ratio', found the columns user_id"
    ):
        load_ratings("kuairec", tmp_path)
    write(path, kuairec_text([(10, 7, -0.5), *rows[1:]]))
    with pytest.raises(RatingsError, match=r"expected ratings >= 0, found -0.5 \(first at row 0\)"):
        load_ratings("kuairec", tmp_path)


def test_a_damaged_zip_is_refused(tmp_path, small_ml1m):
    # Stored without compression, so that a flipped byte is a wrong rating and not a broken stream.
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", ml1m_text())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RatingsError, match=r"expected a complete zip archive.*download it again"):
        load_ratings("ml-1m", tmp_path)
    path.write_bytes(whole.replace(b"1::1::5", b"1::1::4"))
    with pytest.raises(RatingsError, match=r"expected a complete zip archive, found Bad CRC-32"):
        load_ratings("ml-1m", tmp_path)
    write_zip(path, "elsewhere/movies.dat", "1::Toy Story")
    with pytest.raises(RatingsError, match=r"one member named ratings.dat, found 0"):
        load_ratings("ml-1m", tmp_path)


# --- where the files are ---------------------------------------------------------------------------


def test_a_missing_file_names_what_to_put_where(tmp_path):
    with pytest.raises(RatingsError) as caught:
        load_ratings("ml-1m", tmp_path)
    for part in (
        "ratings.dat or ml-1m/ratings.dat or ml-1m.zip",
        str(tmp_path / "ml-1m.zip"),
        "grouplens.org",
    ):
        assert part in str(caught.value)
    with pytest.raises(RatingsError, match="found no folder"):
        load_ratings("ml-1m", tmp_path / "nowhere")


def test_offline_names_the_path_in_the_cache(cache):
    with pytest.raises(RatingsError) as caught:
        load_ratings("ml-1m")
    for part in ("ConnectionError: no route to host", str(cache / "ml-1m.zip"), CATALOG["ml-1m"].url):
        assert part in str(caught.value)
    with pytest.raises(RatingsError, match=r"none of them|no folder.*download=True"):
        load_ratings("yelp", download=False)


def test_a_file_in_the_cache_is_used_without_a_download(cache, small_ml1m):
    write_zip(cache / "ml-1m.zip", "ml-1m/ratings.dat", ml1m_text())
    assert len(load_ratings("ml-1m")) == 5


def test_a_download_goes_to_the_cache_with_the_known_hash(cache, small_ml1m, monkeypatch):
    shrink(monkeypatch, "ml-1m", sha256="ab" * 32)
    calls = []

    def retrieve(url, known_hash, fname, path, downloader):
        calls.append((url, known_hash))
        write_zip(Path(path) / fname, "ml-1m/ratings.dat", ml1m_text())

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(load_ratings("ml-1m")) == len(load_ratings("ml-1m")) == 5
    assert calls == [(CATALOG["ml-1m"].url, "sha256:" + "ab" * 32)]


@pytest.mark.parametrize(
    ("name", "arrives", "message"),
    [("yelp", b"half a fi", "git object id"), ("kuairec", b"PK half", "not a complete zip file")],
)
def test_a_wrong_download_never_enters_the_cache(cache, monkeypatch, name, arrives, message):
    def fetch(url, output_file, parent):
        Path(output_file).write_bytes(arrives)

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda progressbar: fetch)
    monkeypatch.setattr(pooch, "retrieve", pooch.core.retrieve)
    with pytest.raises(RatingsError, match=message):
        load_ratings(name)
    assert not list(cache.iterdir())


def test_git_blob_id_is_that_of_git():
    assert git_blob_id(io.BytesIO(b"hello world\n"), 12) == "3b18e512dba79e4c8300dd08aeb37f8e728b8dad"


def test_catalog_agrees_with_itself():
    for name, entry in CATALOG.items():
        assert name == entry.name
        assert entry.table in entry.places
        assert entry.rating_range[0] <= entry.threshold < entry.rating_range[1]
        assert entry.n_rows <= entry.n_users * entry.n_items
    assert cache_dir().name == "cfmtl"


# --- any table -------------------------------------------------------------------------------------

TABLES = {
    "comma.csv": "user,item,rating\nb,9,5\na,9,1\nb,-x,4\n",
    "semicolon.csv": "user;item;rating\nb;9;5\na;9;1\nb;-x;4\n",
    "plain.csv": "b,9,5\na,9,1\nb,-x,4\n",
    "tabs.tsv": "rating\tuser\titem\n5\tb\t9\n1\ta\t9\n4\tb\t-x\n",
    "colons.dat": "b::9::5::0\na::9::1::0\n\nb::-x::4::0\n",
    "other-names.csv": '"Reviewer ID","ISBN","stars","when"\n"b",9,5,"2020, May"\n"a",9,1,\n"b",-x,4,\n',
    "bom.txt": "\ufeffrating user item\r\n5 b 9\r\n1 a 9\r\n4 b -x\r\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_kind(tmp_path, name):
    ratings = load_ratings(write(tmp_path / name, TABLES[name]))
    assert ratings.user_ids.tolist() == ["a", "b"]
    assert ratings.item_ids.tolist() == ["-x", "9"]
    assert ratings.pairs.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert ratings.rating.tolist() == [5, 1, 4]
    assert (ratings.threshold, ratings.name) == (3.0, Path(name).stem)


@pytest.mark.parametrize("categorical", [False, True])
def test_parquet(tmp_path, categorical):
    frame = pd.DataFrame(
        {"extra": [0, 0, 0], "rating": [0.5, 2, 4], "item": [30, 10, 30], "user": ["b", "b", "a"]}
    )
    if categorical:
        frame["user"] = pd.Categorical(frame["user"], categories=["b", "a"])
    frame.to_parquet(tmp_path / "t.parquet")
    ratings = load_ratings(tmp_path / "t.parquet", threshold=1)
    assert (ratings.user_ids.tolist(), ratings.item_ids.tolist()) == (["a", "b"], [10, 30])
    assert ratings.pairs.tolist() == [[1, 1], [1, 0], [0, 1]]
    assert ratings.outcome.tolist() == [0, 1, 1]
    assert ratings.fingerprint == content_fingerprint(ratings.user, ratings.item, ratings.rating)


def test_dense_ids_stay_and_gaps_close_in_numeric_order(tmp_path):
    ratings = load_ratings(write(tmp_path / "t.csv", "0,100,5\n1,9,1\n2,20,4\n"))
    assert ratings.user_ids is None
    assert ratings.item_ids.tolist() == [9, 20, 100]


def test_columns_by_name_and_a_path_relative_to_data_dir(tmp_path):
    write(tmp_path / "t.csv", "user_id,item_id,timestamp,rating\n7,8,99,5\n7,9,99,5\n6,8,99,1\n")
    ratings = load_ratings("t.csv", tmp_path, columns=("user_id", "item_id", "rating"))
    assert ratings.rating.tolist() == [5, 5, 1]
    # Not the third, although it is one of the first three.
    assert load_ratings("t.csv", tmp_path).rating.tolist() == [5, 5, 1]
    with pytest.raises(RatingsError, match="a column named 'who', found the columns 'user_id', 'item_id'"):
        load_ratings("t.csv", tmp_path, columns=("who", "item_id", "rating"))
    with pytest.raises(RatingsError, match="columns: expected three different names"):
        load_ratings("t.csv", tmp_path, columns=("user_id", "rating"))
    with pytest.raises(RatingsError, match="columns: expected None for 'yelp'"):
        load_ratings("yelp", columns=("a", "b", "c"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "expected lines of user, item, rating, found an empty file"),
        ("t.csv", "\n \n", "found an empty file"),
        ("t.csv", "user,item,rating\n", "expected at least one rating, found none"),
        ("t.csv", "user,item\n1,2\n", "first line: expected at least three fields"),
        ("t.csv", "user,item,rating\n1,2,3\n\n1,3\n", r"line 4: expected 3 fields separated by ',', found 2"),
        ("t.csv", "user,item,rating\n1,2,3\n1,3,4,5\n", "line 3: expected 3 fields .* found 4"),
        ("t.csv", "user,item,rating\n1,2,3,9\n1,3,4\n", "line 2: expected 3 fields .* found 4"),
        ("t.csv", "u,i,r,when\n1,2,3,\n1,3,4\n", "line 3: expected 4 fields .* found 3"),
        ("t.csv", "1,2,five\n1,3,4\n", r"column rating: expected a finite number, found 'five' .*row 0"),
        ("t.csv", "1,2,3\n1,3,inf\n", r"column rating: expected a finite number, found .*inf.*row 1"),
        ("t.csv", "1,2,3\n1,3,\n", r"column rating: expected a finite number, found a missing value .*row 1"),
        ("t.csv", "1,2,3\n,3,3\n", r"column user: expected an id, found a missing value \(first at row 1\)"),
        ("t.csv", "1,2,3\n1,-1,3\n", r"column item: expected ids >= 0, found -1 \(first at row 1\)"),
        ("t.csv", 'a,b,3\n"c,d,3\n', "expected 3 fields|a table of ratings"),
        ("t.parquet", "no parquet", "expected a Parquet file"),
        ("t.zip", "PK", "expected a complete zip archive, found"),
    ],
)
def test_tables_refused(tmp_path, name, text, message):
    with pytest.raises(RatingsError, match=message):
        load_ratings(write(tmp_path / name, text))


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b,3\nc,\xff\xfe,4\n")
    with pytest.raises(RatingsError, match="expected text in UTF-8, found byte 0xff"):
        load_ratings(tmp_path / "t.csv")


def test_a_parquet_file_without_rows_or_with_missing_values(tmp_path):
    frame = pd.DataFrame({"user": [1, 2], "item": [1.0, None], "rating": [1, 2]})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(RatingsError, match="column item: expected an id, found a missing value"):
        load_ratings(tmp_path / "t.parquet")
    frame.iloc[:0].to_parquet(tmp_path / "t.parquet")
    with pytest.raises(RatingsError, match="expected at least one rating"):
        load_ratings(tmp_path / "t.parquet")


def test_duplicates_keep_last_first_or_are_an_error(tmp_path):
    path = write(tmp_path / "t.csv", "user,item,rating\nu,i,1\nv,i,4\nu,i,3\nu,i,2\n")
    message = r"t: 2 of 4 rows repeat a \(user, item\) pair; kept the {} rating of each, 2 rows"
    with pytest.warns(UserWarning, match=message.format("last")) as caught:
        ratings = load_ratings(path)
    assert caught[0].filename == __file__
    assert (ratings.pairs.tolist(), ratings.rating.tolist()) == ([[1, 0], [0, 0]], [4, 2])
    with pytest.warns(UserWarning, match=message.format("first")):
        ratings = load_ratings(path, on_duplicates="first")
    assert ratings.rating.tolist() == [1, 4]
    with pytest.raises(RatingsError, match=r"pair once, found 2 repeats \(first at row 2\)"):
        load_ratings(path, on_duplicates="error")
    with pytest.raises(UnknownNameError, match="on_duplicates: expected one of 'last', 'first', 'error'"):
        load_ratings(path, on_duplicates="mean")


def test_unknown_names_and_missing_paths(tmp_path):
    message = "one of 'ml-1m', 'yelp', 'kuairec', 'yelp-dfm', or the path of a table .* found 'movielens'"
    with pytest.raises(UnknownNameError, match=message):
        load_ratings("movielens")
    for missing in ("no-such-table.csv", str(tmp_path / "nothing"), tmp_path / "nothing"):
        with pytest.raises(RatingsError, match="expected a file, found no such file"):
            load_ratings(missing)
    with pytest.raises(RatingsError, match="expected a file, found a folder"):
        load_ratings(tmp_path)


# --- the real file ---------------------------------------------------------------------------------


@pytest.mark.skipif(
    "CFMTL_ML1M_DIR" not in os.environ, reason="CFMTL_ML1M_DIR: folder with ratings.dat of ML-1M"
)
def test_the_real_ml1m():
    ratings = load_ratings("ml-1m", os.environ["CFMTL_ML1M_DIR"])
    assert (len(ratings), ratings.n_users, ratings.n_items) == (1_000_209, 6_040, 3_952)
    assert ratings.fingerprint == CATALOG["ml-1m"].fingerprint
    assert ratings.outcome.sum() == 575_281
    assert len(np.unique(ratings.item)) == 3_706

"""Tables of ratings in every layout: read as they are meant, or refused with advice that fits."""

import bz2
import codecs
import dataclasses
import datetime
import decimal
import gzip
import io
import lzma
import warnings
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.datasets.ratings import load_ratings
from cfmtl_lib.datasets.tables import text_files
from cfmtl_lib.errors import InputError, RatingsError

BIG = 9_007_199_254_740_993  # 2^53 + 1: no float holds it
HEAD = "user,item,rating\n"
BODY = HEAD + "1,a,5\n2,b,1\n"
TRIPLES = [("1", "a", 5.0), ("2", "b", 1.0)]


def triples(ratings):
    """User, item and rating of each row, by their labels in the file."""
    labels = [
        np.arange(count) if ids is None else ids
        for ids, count in ((ratings.user_ids, ratings.n_users), (ratings.item_ids, ratings.n_items))
    ]
    return [
        (str(labels[0][u]), str(labels[1][i]), float(r))
        for u, i, r in zip(ratings.user, ratings.item, ratings.rating, strict=True)
    ]


def loaded(folder, data, name="t.csv", **options):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return triples(load_ratings(path, **options))


def refused(folder, data, message, name="t.csv", **options):
    with pytest.raises(RatingsError, match=message) as caught:
        loaded(folder, data, name, **options)
    for part in ("expected", "found"):
        assert part in str(caught.value)


# --- which columns -----------------------------------------------------------------------------------

HEADERS = {
    "capitals, another order": "Rating,User,Item\n5,1,a\n1,2,b\n",
    "MovieLens": "userId,movieId,rating,timestamp\n1,a,5,1147880044\n2,b,1,1147868817\n",
    "time before the rating": "userId,movieId,timestamp,rating\n1,a,1147880044,5\n2,b,1147868817,1\n",
    "index of to_csv": ",uid,iid,score\n0,1,a,5\n1,2,b,1\n",
    "Unnamed: 0": "Unnamed: 0,rating,user,item\n0,5,1,a\n1,1,2,b\n",
    "Book-Crossing": '"User-ID";"ISBN";"Book-Rating"\n"1";"a";"5"\n"2";"b";"1"\n',
    "Amazon 2018": "overall,verified,reviewerID,asin\n5,True,1,a\n1,True,2,b\n",
    "Amazon 2023": "user_id,parent_asin,rating,timestamp\n1,a,5,99\n2,b,1,98\n",
    "Yelp": "review_id,user_id,business_id,stars,useful\nx,1,a,5,0\ny,2,b,1,0\n",
    "KuaiRec": "user_id,video_id,play_duration,watch_ratio\n1,a,100,5\n2,b,100,1\n",
    "RecBole": "user_id:token\titem_id:token\ttimestamp:float\trating:float\n1\ta\t9\t5\n2\tb\t8\t1\n",
    "customers": "Customer ID|Product Code|Review Score\n1|a|5\n2|b|1\n",
    "spaces": "user, item, rating\n1, a, 5\n2, b, 1\n",
    "Chinese": "\u7528\u6237,\u5546\u54c1,\u8bc4\u5206\n1,a,5\n2,b,1\n",
    "rating beside score": "user,item,score,rating\n1,a,9,5\n2,b,9,1\n",
    "names in a comment": "# rating,user,item\n5,1,a\n1,2,b\n",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_columns_are_found_by_their_names(kind, tmp_path):
    assert loaded(tmp_path, HEADERS[kind], "t.txt") == TRIPLES


NAMES_REFUSED = {
    "no rating": ("user_id,item_id,timestamp\n1,10,978300760\n", "found none for the rating"),
    "RecBole without rating": ("user_id:token\titem_id:token\ttime:float\n1\t2\t9\n", "none for the rating"),
    "click log": ("user_id,video_id,date,is_click\n1,10,20220408,0\n", "none for the rating.*'is_click'"),
    "other names": ("person,thing,stars\na,b,5\n", "none for the user, among the columns 'person', 'thing'"),
    "two items": (
        "rating,asin,parent_asin,user_id\n1,2,3,4\n",
        "'asin', 'parent_asin', any of which .* item",
    ),
    "a name twice": ("user,user,item,rating\n1,2,3,4\n", "'user', 'user', any of which could be the user"),
    "names of numbers": ("0,1,2,3\n5,10,3,99\n", "found none for the user"),
}


@pytest.mark.parametrize("kind", NAMES_REFUSED)
def test_columns_are_never_taken_by_their_order(kind, tmp_path):
    text, message = NAMES_REFUSED[kind]
    refused(tmp_path, text, message + r".*Say which they are, e\.g\. columns=")


def test_columns_can_be_named_or_counted(tmp_path):
    text = "overall,asin,parent_asin,user_id\n5,x,a,1\n1,x,b,2\n"
    assert loaded(tmp_path, text, columns=("user_id", "parent_asin", "overall")) == TRIPLES
    assert loaded(tmp_path, text, columns=(3, 2, 0)) == TRIPLES
    assert loaded(tmp_path, "978300760,1,a,5\n978300761,2,b,1\n", columns=(1, 2, 3)) == TRIPLES
    refused(tmp_path, text, "expected a column at position 7, found 4 columns", columns=(0, 1, 7))
    refused(
        tmp_path,
        "1,a,5\n",
        "expected a column named 'user', found the columns '1', 'a', '5'",
        columns=("user", "item", "rating"),
    )
    for columns in ((-1, 0, 2), (True, False, 2), ("a", "b"), "abc", (0, 0, 1), 3, ("a", 1, "b")):
        refused(tmp_path, text, "columns: expected three different names, or positions", columns=columns)


@pytest.mark.parametrize(
    "text", ["1,10,978300760,5\n2,11,978300761,1\n", "1,10,20220408,5\n2,11,20220409,1\n"]
)
def test_times_are_no_ratings(text, tmp_path):
    refused(tmp_path, text, "expected ratings, found (978300760|20220408), which looks like a date or a time")
    assert loaded(tmp_path, text, columns=(0, 1, 3))[0][2] == 5


HEADERLESS = {
    "ml-1m": ("ratings.dat", "1::a::5::978300760\r\n2::b::1::978302109\r\n"),
    "u.data": ("u.data", "1\ta\t5\t881250949\n2\tb\t1\t891717742\n"),
    "yelp": ("yelp.rating", "1\ta\t5\t1387500000\n2\tb\t1\t1387500001\n"),
    "KONECT": ("out.bip", "% bip weighted\n% 2 2 2\n1 a 5 1000\n2 b 1 1000\n"),
    "comment": ("t.csv", "# exported 2024\n\n1,a,5\n2,b,1\n"),
    "comment, then a header": ("t.csv", "# exported 2024, by me\nrating,item,user\n5,a,1\n1,b,2\n"),
    "sep= of spreadsheets": ("t.csv", "sep=;\r\nuser;item;rating\r\n1;a;5\r\n2;b;1\r\n"),
    "old Macintosh": ("t.csv", BODY.replace("\n", "\r")),
    "quotes": ("t.csv", HEAD + '"1","a","5"\n"2","b","1"\n'),
    "a separator in quotes": ("t.csv", 'user,item,rating,title\n1,a,5,"x; y; z"\n2,b,1,"x, y"\n'),
}


@pytest.mark.parametrize("kind", HEADERLESS)
def test_layouts(kind, tmp_path):
    name, text = HEADERLESS[kind]
    assert loaded(tmp_path, text, name) == TRIPLES


LAYOUTS_REFUSED = {
    "a row that begins as a comment does": ("#a,b,5\nc,d,1\n", "line 1: expected a comment or a row"),
    "a comment at the end": (BODY + "# end\n", "line 4: expected 3 fields separated by ',', found 1"),
    "two separators fit": (
        "1;2;4,5;3,5\n1;3;4,5;3,5\n",
        r"found ',' and ';', both of which fit.*separator=','",
    ),
    "the header again": (
        BODY + BODY,
        r"column rating: expected a finite number, found 'rating' \(first at row 2\)",
    ),
    "a decimal comma": ("user;item;rating\n1;2;4,5\n", r"found '4,5' .*pass decimal=','"),
    "a percentage": (HEAD + "1,a,80%\n", "found '80%'"),
    "no number": (HEAD + "1,a,True\n", "found 'True'"),
    "infinite": (HEAD + "1,a,1e999\n", "column rating: expected a finite number"),
    "NaN": (HEAD + "1,a,nan\n", "column rating: expected a finite number"),
}


@pytest.mark.parametrize("kind", LAYOUTS_REFUSED)
def test_layouts_refused(kind, tmp_path):
    refused(tmp_path, *LAYOUTS_REFUSED[kind])


def test_separator_and_decimal_can_be_given(tmp_path):
    text = "1;2;4,5;3,5\n1;3;2,5;3,5\n"
    assert loaded(tmp_path, text, separator=";", decimal=",") == [("1", "2", 4.5), ("1", "3", 2.5)]
    mixed = "user;item;rating\n1;2;4,5\n1;3;1.5\n"
    refused(
        tmp_path, mixed, r"the comma as the sign of a decimal, found '1\.5' \(first at row 1\)", decimal=","
    )
    refused(tmp_path, BODY, "at least three fields separated by ';'", separator=";")
    for separator in (",,", "", 3):
        refused(tmp_path, BODY, "separator: expected one character", separator=separator)
    refused(tmp_path, BODY, "separator: expected another sign", separator=",", decimal=",")
    with pytest.raises(InputError, match="decimal: expected one of"):
        loaded(tmp_path, BODY, decimal="'")
    with pytest.raises(RatingsError, match="encoding: expected None for 'yelp', whose format is known"):
        load_ratings("yelp", tmp_path, encoding="utf-8")


# --- encodings and archives --------------------------------------------------------------------------

LETTERS = "user,item,rating\n\u7532,\u8336,5\n\u4e59,\u8336,2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_are_read(encoding, tmp_path):
    assert loaded(tmp_path, LETTERS.encode(encoding))[0] == ("\u7532", "\u8336", 5.0)
    colons = LETTERS.split("\n", 1)[1].replace(",", "::")
    assert loaded(tmp_path, colons.encode(encoding), "t.dat")[1] == ("\u4e59", "\u8336", 2.0)


def test_a_mark_of_either_byte_order(tmp_path):
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        assert loaded(tmp_path, mark + BODY.encode(encoding)) == TRIPLES


ADVICE = {
    "gb18030": (LETTERS.encode("gb18030"), "gb18030", r"Pass its encoding: encoding='gb18030' reads '\u7532"),
    "latin-1": (
        b"user;item;rating\n1;Jos\xe9;5\n2;b;1\n",
        "cp1252",
        r"encoding: encoding='cp1252' reads '1;Jos\xe9",
    ),
    "late": (HEAD.encode() + b"a,b,5\n" * 2000 + b"\xe9,c,1\n", "cp1252", "found byte 0xe9"),
    "utf-16 without a mark": (
        BODY.encode("utf-16-le"),
        "utf-16-le",
        "found bytes of value 0.*encoding='utf-16-le'",
    ),
}


@pytest.mark.parametrize("kind", ADVICE)
def test_other_encodings_get_advice_that_works(kind, tmp_path):
    data, encoding, message = ADVICE[kind]
    refused(tmp_path, data, message)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of repeated pairs
        assert loaded(tmp_path, data, encoding=encoding)[-1] in [
            ("\u4e59", "\u8336", 2.0),
            ("2", "b", 1.0),
            ("\xe9", "c", 1.0),
        ]


@pytest.mark.parametrize("encoding", ["klingon", "hex", 3])
def test_unknown_encodings(encoding, tmp_path):
    refused(tmp_path, BODY, "encoding: expected the name of an encoding", encoding=encoding)


def zipped(members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return data.getvalue()


PACKED = {
    "t.csv.gz": gzip.compress(BODY.encode()),
    "t.csv": gzip.compress(BODY.encode()),
    "t.bz2": bz2.compress(BODY.encode()),
    "t.tsv.xz": lzma.compress(BODY.replace(",", "\t").encode()),
    "t.zip": zipped({"data/t.csv": BODY, "__MACOSX/._t.csv": "x"}),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_tables(name, tmp_path):
    assert loaded(tmp_path, PACKED[name], name) == TRIPLES
    assert load_ratings(tmp_path / name).name == "t"


@pytest.mark.parametrize("name", PACKED)
def test_packed_tables_cut_short(name, tmp_path):
    refused(
        tmp_path, PACKED[name][:-12], "expected a complete (zip )?archive, found .*download it again", name
    )


FORMATS = {
    "xlsx": (zipped({"[Content_Types].xml": "", "xl/workbook.xml": ""}), "spreadsheet.*pandas.read_excel"),
    "ods": (zipped({"content.xml": ""}), "spreadsheet.*pandas.read_excel"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an Excel workbook.*pandas.read_excel"),
    "zst": (b"\x28\xb5\x2f\xfd1234", "a Zstandard archive.*unzstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c1234", "a 7-Zip archive. Unpack it"),
    "json": (b'[{"user": 1}]', "found JSON.*pandas.read_json"),
    "html": (b"\n<!DOCTYPE html><html>", "a page or XML.*get the file again"),
    "pkl": (b"\x80\x04\x95abc", "found a pickle.*pass the DataFrame"),
    "zip": (
        zipped({"a.csv": BODY, "b.csv": BODY}),
        "one table in the zip archive, found 2 files: a.csv, b.csv",
    ),
    "parquet": (b"user,item,rating", "expected a Parquet file, found a file of another format"),
    "gz": (gzip.compress(b"PAR1abc"), "a Parquet file in an archive. Unpack it"),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_other_formats_get_advice_that_fits(suffix, tmp_path):
    data, message = FORMATS[suffix]
    refused(tmp_path, data, message, f"t.{suffix}")


def test_zip_members_are_checked_before_they_are_unpacked(tmp_path, monkeypatch):
    large = zipped({"t.csv": "1,2,3\n" * 100_000})
    entry = dataclasses.replace(CATALOG["kuairec"], n_rows=2000)
    monkeypatch.setitem(CATALOG, "kuairec", entry)
    (tmp_path / entry.download_name).write_bytes(zipped({entry.table: b"0" * 400_001}))
    monkeypatch.setattr(text_files, "_LARGE", 1000)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: pytest.fail("unpacked"))
    refused(tmp_path, large, r"at most \d[\d,]+ bytes .* found 600,000", "t.zip")
    with pytest.raises(RatingsError, match="at most 400,000 bytes when unpacked, found 400,001"):
        load_ratings("kuairec", tmp_path)


def test_encrypted_members_are_refused(tmp_path):
    data = bytearray(zipped({"t.csv": BODY}))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    refused(tmp_path, bytes(data), "expected a table, found an encrypted one. Unpack it", "t.zip")


# --- ids ---------------------------------------------------------------------------------------------

IDS_OF_TEXT = {
    "leading zeros": ["01", "1"],
    "64 bits": [str(BIG), str(BIG - 1)],
    "beyond 64 bits, signed": [str(2**64 - 1), str(2**64 - 2)],
    "beyond 64 bits": [str(2**70 + 1), str(2**70)],
    "a mixture": ["7", "007x"],
    "called NA": ["NA", "bob"],
    "signs": ["+1", "1"],
}


@pytest.mark.parametrize("kind", IDS_OF_TEXT)
def test_ids_in_text_stay_as_written(kind, tmp_path):
    ids = IDS_OF_TEXT[kind]
    text = HEAD + "".join(f"{u},{u},{r}\n" for u, r in zip(ids, (5, 1), strict=True))
    assert loaded(tmp_path, text) == [(ids[0], ids[0], 5.0), (ids[1], ids[1], 1.0)]


def test_floats_that_were_whole_numbers_are_those_numbers(tmp_path):
    assert loaded(tmp_path, HEAD + "10.0,a,5\n9.0,b,1\n") == [("10", "a", 5.0), ("9", "b", 1.0)]
    ratings = load_ratings(tmp_path / "t.csv")
    assert (ratings.user_ids.dtype, ratings.user.tolist()) == (np.int64, [1, 0])  # in the order of numbers


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((f"{BIG}.0", "1.0"), "floats hold whole numbers only below 2\\^53"),
        (("1.23457E+12", "7"), r"ids with all their digits, found '1\.23457E\+12' \(first at row 0\)"),
        (("7", "nan"), r"expected an id, found 'nan' \(first at row 1\).*probably a missing value"),
        (("7", "NULL"), r"expected an id, found 'NULL' \(first at row 1\)"),
        (("7", ""), r"expected an id, found a missing value \(first at row 1\)"),
        (("a", " "), r"expected an id, found ' ' \(first at row 1\)"),
        (("-1", "7"), r"expected ids >= 0, found -1 \(first at row 0\)"),
    ],
)
def test_ids_in_text_that_may_be_wrong(ids, message, tmp_path):
    for order in ("{u},a,{r}\n", "a,{u},{r}\n"):
        rows = "".join(order.format(u=u, r=r) for u, r in zip(ids, (5, 1), strict=True))
        refused(tmp_path, HEAD + rows, message)


IDS = {
    "int64": (pd.array([BIG, 2]), [str(BIG), "2"]),
    "Int64": (pd.array([BIG, 2], "Int64"), [str(BIG), "2"]),
    "uint64": (np.array([2**64 - 1, 2**64 - 2], np.uint64), [str(2**64 - 1), str(2**64 - 2)]),
    "Python's integers": (pd.Series([BIG, BIG - 1], dtype=object), [str(BIG), str(BIG - 1)]),
    "floats": ([3.0, 2.0], ["3", "2"]),
    "texts": (["01", "1"], ["01", "1"]),
    "categories": (pd.Categorical(["b", "a"], ["b", "a", "c"]), ["b", "a"]),
    "categories of numbers": (pd.Categorical([10, 9]), ["10", "9"]),
    "Decimal": ([decimal.Decimal(10), decimal.Decimal(9)], ["10", "9"]),
    "Arrow decimal": (
        pd.Series([decimal.Decimal(10), decimal.Decimal(9)], dtype=pd.ArrowDtype(pa.decimal128(20, 0))),
        ["10", "9"],
    ),
    "Arrow dictionary": (
        pd.Series(["01", "1"], dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))),
        ["01", "1"],
    ),
    "Arrow int64": (pd.Series([BIG, 2], dtype=pd.ArrowDtype(pa.int64())), [str(BIG), "2"]),
}
WRONG_IDS = {
    "Int64, one missing": (pd.array([BIG, None], "Int64"), r"found a missing value \(first at row 1\)"),
    "floats, one missing": ([1.0, np.nan], r"found a missing value \(first at row 1\)"),
    "large floats": (
        [1.0, 2.0**53 + 2],
        r"float64 holds all whole numbers only below 9007199254740992.*row 1",
    ),
    "large floats of 32 bits": (
        np.array([3, 2**24 + 2], np.float32),
        "float32 holds all whole .* below 16777216",
    ),
    "fractions": ([1.5, 2.0], r"expected whole numbers or texts as ids, found 1\.5 \(first at row 0\)"),
    "numbers and texts": (["1", 1], r"found 1 \(first at row 1\).*1 and '1' may be one id or two"),
    "dates": ([datetime.date(2020, 1, 1)] * 2, "whole numbers only, or texts only, as ids"),
    "times": (pd.to_datetime(["2020", "2021"]), "whole numbers only, or texts only, as ids"),
    "booleans": ([True, False], "expected whole numbers or texts as ids, found dtype bool"),
    "lists": ([[1], [2]], "expected whole numbers or texts as ids"),
    "bytes": ([b"a", b"b"], "whole numbers only, or texts only, as ids"),
    "negative": ([-1, 2], "expected ids >= 0, found -1"),
}
FRAME = pd.DataFrame({"rating": [5, 1], "item": ["p", "q"], "user": [1, 2]})


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_dataframes_keep_every_digit(kind):
    ids, expected = IDS[kind]
    found = triples(load_ratings(FRAME.assign(user=ids)))
    assert found == [(expected[0], "p", 5.0), (expected[1], "q", 1.0)]


@pytest.mark.parametrize("kind", WRONG_IDS)
def test_ids_of_dataframes_that_may_be_wrong(kind):
    ids, message = WRONG_IDS[kind]
    with pytest.raises(RatingsError, match=f"ratings, column user: .*{message}"):
        load_ratings(FRAME.assign(user=ids))


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ([5.0, np.nan], r"found a missing value \(first at row 1\)"),
        ([5.0, np.inf], r"found inf \(first at row 1\)"),
        (pd.array([5, None], "Int64"), r"found a missing value \(first at row 1\)"),
        (["5", "good"], r"found 'good' \(first at row 1\)"),
        (pd.to_datetime(["2020", "2021"]), "expected numbers, found datetime64"),
        (pd.to_timedelta([1, 2], "s"), "expected numbers, found timedelta64"),
        ([5j, 1], "expected numbers, found complex128"),
        (pd.Series([10**400, 1], dtype=object), "expected finite numbers"),
        ([978300760, 978300761], "looks like a date or a time"),
    ],
)
def test_ratings_of_dataframes_that_are_none(ratings, message):
    with pytest.raises(RatingsError, match=f"ratings, column rating: .*{message}"):
        load_ratings(FRAME.assign(rating=ratings))


def test_any_table_of_arrow_is_a_dataframe():
    table = pa.table({"when": [1, 2], "stars": [5, 1], "user_id": [BIG, BIG - 1], "item_id": ["01", "1"]})
    expected = [(str(BIG), "01", 5.0), (str(BIG - 1), "1", 1.0)]
    for frame in (table, table.to_batches()[0], table.to_pandas()):
        assert triples(load_ratings(frame)) == expected
    with pytest.raises(RatingsError, match="column user: expected an id, found a missing value"):
        load_ratings(table.set_column(2, "user_id", pa.array([BIG, None])))
    with pytest.raises(RatingsError, match="none for the user, among the columns 'stars', 'item_id'"):
        load_ratings(table.to_pandas()[["stars", "item_id"]])


@pytest.mark.parametrize("thing", [None, 5, np.ones((3, 3)), {"user": [1]}, [(1, 2, 3)]])
def test_what_is_no_table(thing):
    with pytest.raises(RatingsError, match="the path of a table, or a dataframe, found"):
        load_ratings(thing)


PARQUET = {
    "64 bits": (pa.array([BIG, BIG - 1]), [str(BIG), str(BIG - 1)]),
    "dictionary": (pa.array(["01", "1"]).dictionary_encode(), ["01", "1"]),
    "decimal": (
        pa.array([decimal.Decimal(2**60), decimal.Decimal(1)], pa.decimal128(30, 0)),
        [str(2**60), "1"],
    ),
    "bytes that are text": (pa.array([b"01", b"1"]), ["01", "1"]),
    "missing": (pa.array([BIG, None]), "found a missing value"),
    "missing in a dictionary": (pa.array(["01", None]).dictionary_encode(), "found a missing value"),
    "bytes": (pa.array([b"\xff", b"1"]), "whole numbers only, or texts only, as ids"),
    "struct": (pa.array([{"a": 1}, {"a": 2}]), "whole numbers or texts as ids"),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_ids_of_parquet(kind, tmp_path):
    ids, expected = PARQUET[kind]
    pq.write_table(pa.table({"rating": [5, 1], "user": ids, "item": ["p", "q"]}), tmp_path / "t.dat")
    if isinstance(expected, list):
        found = triples(load_ratings(tmp_path / "t.dat"))
        assert found == [(expected[0], "p", 5.0), (expected[1], "q", 1.0)]
    else:
        with pytest.raises(RatingsError, match=f"t.dat, column user: .*{expected}"):
            load_ratings(tmp_path / "t.dat")


# --- the threshold -----------------------------------------------------------------------------------


def test_a_threshold_that_may_not_fit_is_said(tmp_path):
    """A table of watch ratios read with the threshold of stars had 0.3 % above it, and nothing said so."""
    rng = np.random.default_rng(0)
    watched = pd.DataFrame({"user": np.arange(1000), "item": 0, "rating": rng.exponential(0.5, 1000)})
    share = (watched["rating"] > 3).mean() * 100
    with pytest.warns(
        UserWarning, match=rf"{share:.3g} % of 1,000 ratings are above the threshold 3; they go from"
    ):
        load_ratings(watched)
    assert load_ratings(watched, threshold=0.6).outcome.mean() == (watched["rating"] > 0.6).mean()
    with pytest.warns(UserWarning, match="100 % of 1,000"):
        load_ratings(watched, threshold=-1)
    points = watched.assign(rating=np.arange(1000) % 10 + 1)
    with pytest.warns(UserWarning, match="they go from 1 to 10. Pass another"):
        load_ratings(points)
    assert load_ratings(points, threshold=7).outcome.sum() == 300

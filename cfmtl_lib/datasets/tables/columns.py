"""Columns of a ratings table: which of them are user, item and rating, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cfmtl_lib.errors import RatingsError

ROLES = ("user", "item", "rating")
"""What each row of a table of ratings has; also the columns of every frame that readers return."""

# Names as they are compared: lower case, letters and digits only. In each role, names of an earlier line win.
_ALIASES: dict[str, tuple[frozenset[str], ...]] = {
    "user": (
        frozenset({"user"}),
        frozenset({"userid", "uid", "users", "userids", "useridx", "userindex", "usercode", "userno", "u"}),
        frozenset(
            {"customer", "customerid", "custid", "client", "clientid", "reviewer", "reviewerid", "rater"}
            | {"raterid", "member", "memberid", "visitor", "visitorid", "buyer", "buyerid", "consumer"}
            | {"consumerid", "consumerno", "shopper", "shopperid", "reader", "readerid", "username"}
            | {"用户", "用户id", "用户编号", "顾客", "会员"}
        ),
    ),
    "item": (
        frozenset({"item"}),
        frozenset({"itemid", "iid", "items", "itemids", "itemidx", "itemindex", "itemcode", "itemno", "i"}),
        frozenset(
            {"movie", "movieid", "mid", "film", "filmid", "video", "videoid", "product", "productid", "isbn"}
            | {
                "productcode",
                "productasin",
                "asin",
                "parentasin",
                "sku",
                "skuid",
                "goodsid",
                "book",
                "bookid",
            }
            | {"song", "songid", "track", "trackid", "artist", "artistid", "album", "albumid", "business"}
            | {"businessid", "venue", "venueid", "place", "placeid", "restaurant", "restaurantid", "hotel"}
            | {
                "hotelid",
                "recipe",
                "recipeid",
                "game",
                "gameid",
                "appid",
                "anime",
                "animeid",
                "joke",
                "jokeid",
            }
            | {"article", "articleid", "news", "newsid", "show", "showid", "course", "courseid", "beerid"}
            | {
                "gmapid",
                "noteid",
                "contentid",
                "poi",
                "poiid",
                "商品",
                "商品id",
                "商品编号",
                "物品",
                "物品id",
            }
            | {"电影", "电影id"}
        ),
    ),
    "rating": (
        frozenset({"rating"}),
        frozenset({"ratings", "userrating", "bookrating", "movierating", "reviewrating", "ratingvalue", "r"}),
        frozenset(
            {"star", "stars", "starrating", "score", "scores", "reviewscore", "reviewoverall", "overall"}
            | {"overallrating", "watchratio", "评分", "打分", "分数"}
        ),
    ),
}

_TYPED = re.compile(r"(.+):(?:token|token_seq|float|float_seq)$")
ADVICE = "Say which they are, e.g. columns=('user_id', 'item_id', 'rating')."
"""Next step where columns cannot be told."""


def simplified(name: object) -> str:
    """Reduce a name of a column to what is compared: lower case, letters and digits.

    Examples
    --------
    >>> simplified("User-ID"), simplified("item_id:token"), simplified(" Book Rating")
    ('userid', 'itemid', 'bookrating')
    """
    text = str(name).strip().lstrip("\ufeff")
    typed = _TYPED.match(text)
    return "".join(filter(str.isalnum, (typed[1] if typed else text).casefold()))


def count_roles(names: Sequence[object]) -> int:
    """Count the roles that a line of names has a column for."""
    known = {simplified(name) for name in names}
    return sum(any(known & level for level in levels) for levels in _ALIASES.values())


def positions_of(names: Sequence[object], columns: Sequence[str | int] | None, label: str) -> list[int]:
    """Find the positions of user, item and rating among names of columns.

    Parameters
    ----------
    names : sequence of str
        Names of all columns of a table, in their order.
    columns : sequence of 3 str or int, optional
        Names or positions (from 0) to take. If left out, usual names are looked for, whatever their case
        and punctuation; user, item and rating themselves come before others.
    label : str
        Name of the table in messages.

    Returns
    -------
    list of 3 int

    Raises
    ------
    RatingsError
        If a role has no column, or more than one. Columns are never taken by their order.

    Examples
    --------
    >>> positions_of(["timestamp", "Book-Rating", "ISBN", "User-ID"], None, "books")
    [3, 2, 1]
    """
    shown = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
    if columns is not None:
        return [_chosen(names, wanted, label, shown) for wanted in columns]
    plain = [simplified(name) for name in names]
    found: list[int] = []
    for role in ROLES:
        for level in _ALIASES[role]:
            hits = [place for place, name in enumerate(plain) if name in level]
            if hits:
                break
        if len(hits) != 1:
            several = ", ".join(repr(names[place]) for place in hits)
            raise RatingsError(
                label,
                expected="one column each that is called user, item and rating, or by a usual other name",
                found=(f"{several}, any of which could be the {role}" if hits else f"none for the {role}")
                + f", among the columns {shown}",
                advice=ADVICE,
            )
        found += hits
    return found


def _chosen(names: Sequence[object], wanted: str | int, label: str, shown: str) -> int:
    if isinstance(wanted, int):
        if wanted < len(names):
            return wanted
        raise RatingsError(label, expected=f"a column at position {wanted}", found=f"{len(names)} columns")
    hits = [place for place, name in enumerate(names) if name == wanted]
    if not hits:  # e.g. "rating" for "rating:float"
        hits = [place for place, name in enumerate(names) if simplified(name) == simplified(wanted)]
    if len(hits) != 1:
        found = f"{len(hits)} of them among" if hits else "the columns"
        raise RatingsError(label, expected=f"a column named {wanted!r}", found=f"{found} {shown}")
    return hits[0]

"""Semi-synthetic studies on small made-up ratings: labelling, sampling of unobserved pairs, treatment."""

import dataclasses
import importlib
import tracemalloc

import numpy as np
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib import protocol
from cfmtl_lib.datasets.construction import (
    PROPENSITY_MARGIN,
    _distinct_ranks,
    label_strata,
    sample_unobserved,
)
from cfmtl_lib.datasets.study import split_and_treat
from cfmtl_lib.errors import StudyError, UnknownNameError
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.protocol import ConstructionFits
from cfmtl_lib.strata import ALWAYS_BUYER, COUPON_BUYER, COUPON_TAKER, NEVER_BUYER, NEVER_TAKER, observe

module = importlib.import_module("cfmtl_lib.datasets.construction")  # the package shadows it by the function
N_USERS, N_ITEMS, N_RATINGS = 60, 50, 903


def small(labelling_loss, assignment_loss):
    return ConstructionFits(
        labelling=cf.FitConfig(loss=labelling_loss, embedding_k=8, batch_size=300, tolerance=1e-3),
        assignment=cf.FitConfig(loss=assignment_loss, embedding_k=4, batch_size=200, tolerance=1e-2),
    )


SMALL = dataclasses.replace(
    cf.PAPER,
    construction={
        "authors": small("squared_error", "cross_entropy"),
        "document": small("cross_entropy", "squared_error"),
    },
)


def made_up(n_users=N_USERS, n_items=N_ITEMS, n_ratings=N_RATINGS, rated_items=45, seed=0):
    """Ratings from 1 to 5 that follow user and item effects; the last items are never rated."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(n_users * rated_items, n_ratings, replace=False)
    user, item = np.divmod(codes, rated_items)
    level = rng.normal(size=n_users)[user] + rng.normal(size=n_items)[item] + rng.normal(size=n_ratings)
    rating = np.clip(np.round(3.5 + level), 1, 5)
    return cf.Ratings(user, item, rating, n_users=n_users, n_items=n_items, name="made up")


RATINGS = made_up(seed=1)


def study(labelling="code", construction="authors", seed=0, ratings=RATINGS, **options):
    return cf.semisynthetic(ratings, labelling, construction, seed, device="cpu", protocol=SMALL, **options)


def everything(made):
    """x, stratum and propensity of all pairs, ordered by pair."""
    parts = (made.train_truth, made.test)
    x, stratum, e = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "stratum", "propensity")
    )
    order = np.lexsort(x.T[::-1])
    return x[order], stratum[order], e[order]


def by_pair(made):
    x, stratum, _ = everything(made)
    return dict(zip(map(tuple, x.tolist()), stratum.tolist(), strict=True))


@pytest.fixture(scope="module")
def code():
    return study()


@pytest.fixture(scope="module")
def text():
    return study("text")


@pytest.fixture(scope="module")
def large():
    return study(ratings=made_up(150, 120, 6000, 110))


@pytest.fixture
def fits(monkeypatch):
    """The fits that a construction makes: (network, config, target), in order."""
    made = []
    real = module.fit_probability

    def recorded(network, columns, config, **options):
        user, item, target = columns
        made.append((network, config, torch.stack([user, item], 1).numpy(), target.numpy()))
        return real(network, columns, config, **options)

    monkeypatch.setattr(module, "fit_probability", recorded)
    return made


def test_sizes_are_those_of_the_protocol(code):
    total = N_RATINGS + int(0.8 * N_RATINGS)
    assert total == 903 + 722
    assert len(code.train) == len(code.train_truth) == int(0.7 * total) == 1137
    assert len(code.test) == total - 1137
    assert (code.train.n_users, code.train.n_items) == (N_USERS, N_ITEMS)
    assert (code.dataset, code.labelling, code.construction) == ("made up", "code", "authors")
    assert code.fingerprint == RATINGS.fingerprint
    assert code.test.strata_probability is None


def test_every_rated_pair_is_there_once_with_as_many_unrated_ones(code):
    x, *_ = everything(code)
    assert x.dtype == np.int64 and len(np.unique(x, axis=0)) == len(x)
    rated = set(map(tuple, RATINGS.pairs.tolist()))
    assert rated <= set(map(tuple, x.tolist()))
    assert (x >= 0).all() and (x < [N_USERS, N_ITEMS]).all()
    assert set(range(45, 50)) <= set(x[:, 1].tolist())  # items never rated are drawn too


@pytest.mark.parametrize("labelling", protocol.LABELLINGS)
def test_observed_negatives_are_coupon_takers_and_the_others_are_halved(labelling, code, text):
    stratum_of = by_pair({"code": code, "text": text}[labelling])
    rated = [stratum_of.pop(tuple(pair)) for pair in RATINGS.pairs.tolist()]
    outcome = RATINGS.outcome
    assert outcome.sum() % 2 == 1  # so that the odd pair shows
    assert {s for s, y in zip(rated, outcome, strict=True) if y == 0} == {COUPON_TAKER}
    counts = np.bincount(rated, minlength=5)
    assert counts[COUPON_TAKER] == (outcome == 0).sum()
    upper, lower = (COUPON_BUYER, ALWAYS_BUYER) if labelling == "code" else (ALWAYS_BUYER, COUPON_BUYER)
    assert (counts[lower], counts[upper]) == (outcome.sum() // 2, outcome.sum() // 2 + 1)
    unrated = np.bincount(list(stratum_of.values()), minlength=5)
    assert unrated.tolist() == [361, 361, 0, 0, 0]


def test_code_and_text_swap_labels_on_the_same_pairs(code, text):
    for ours, theirs, same in zip(everything(code), everything(text), (True, False, True), strict=True):
        assert np.array_equal(ours, theirs) == same
    swapped = np.empty(5, dtype=int)
    swapped[[NEVER_BUYER, NEVER_TAKER, COUPON_TAKER, COUPON_BUYER, ALWAYS_BUYER]] = [
        NEVER_TAKER,
        NEVER_BUYER,
        COUPON_TAKER,
        ALWAYS_BUYER,
        COUPON_BUYER,
    ]
    np.testing.assert_array_equal(everything(text)[1], swapped[everything(code)[1]])
    np.testing.assert_array_equal(code.train.t, text.train.t)
    np.testing.assert_array_equal(code.train.x, text.train.x)


@pytest.mark.parametrize(
    "labelling, upper_positive, lower_positive, upper_unobserved, lower_unobserved",
    [
        ("code", "coupon buyer", "always buyer", "never buyer", "never taker"),
        ("text", "always buyer", "coupon buyer", "never taker", "never buyer"),
    ],
)
def test_the_upper_half_has_the_higher_scores(
    labelling, upper_positive, lower_positive, upper_unobserved, lower_unobserved
):
    rng = np.random.default_rng(0)
    score, outcome, unobserved = rng.random(101), rng.integers(0, 2, 101).astype(np.int8), rng.random(80)
    stratum = label_strata(score, outcome, unobserved, labelling)
    assert stratum.dtype == np.int8
    names = np.array(cf.STRATA)[stratum]
    assert set(names[:101][outcome == 0]) == {"coupon taker"}
    for rows, values, upper, lower in (
        (names[:101][outcome == 1], score[outcome == 1], upper_positive, lower_positive),
        (names[101:], unobserved, upper_unobserved, lower_unobserved),
    ):
        assert set(rows) == {upper, lower}
        assert values[rows == upper].min() > values[rows == lower].max()
        assert 0 <= (rows == upper).sum() - (rows == lower).sum() <= 1


def test_ties_in_the_scores_are_still_halved():
    stratum = label_strata(np.ones(10), np.ones(10, dtype=np.int8), np.ones(7), "code")
    assert np.bincount(stratum, minlength=5).tolist() == [4, 3, 0, 5, 5]


@pytest.mark.parametrize("construction", protocol.CONSTRUCTIONS)
def test_ncf_labels_and_mf_assigns_both_fitted_to_the_ratings(construction, fits):
    made = study(construction=construction)
    (assigner, second, *also), (labeller, first, pairs, target) = fits
    assert type(labeller) is AdditiveNetwork and type(assigner) is FactorizationNetwork
    assert (first, second) == (
        SMALL.construction[construction].labelling,
        SMALL.construction[construction].assignment,
    )
    for x, y in ((pairs, target), also):
        np.testing.assert_array_equal(x, RATINGS.pairs)
        np.testing.assert_array_equal(y, RATINGS.outcome)
    x, stratum, e = everything(made)
    mf = np.clip(predict_probability(assigner, x), PROPENSITY_MARGIN, 1 - PROPENSITY_MARGIN)
    np.testing.assert_allclose(e, mf, atol=1e-6)
    ncf = predict_probability(labeller, x)
    for upper, lower in ((COUPON_BUYER, ALWAYS_BUYER), (NEVER_BUYER, NEVER_TAKER)):
        assert ncf[stratum == upper].min() > ncf[stratum == lower].max() - 1e-6


def test_a_saturated_score_is_drawn_with_a_propensity_of_a_millionth_less_than_certainty():
    labeller, assigner = module.fit_construction(RATINGS, protocol=SMALL, device="cpu")
    with torch.no_grad():
        assigner.user[:, 0] = 1e3
        assigner.user[:, 1:] = 0
        assigner.item[:, 0] = torch.where(torch.arange(N_ITEMS) % 2 == 0, 1e3, -1e3)
    made = study(networks=module.ConstructionNetworks(labeller, assigner))
    x, _, e = everything(made)
    np.testing.assert_array_equal(e, np.where(x[:, 1] % 2 == 0, 1 - 1e-6, 1e-6))
    assert made.train.propensity.min() == 1e-6 == pytest.approx(1 - made.train.propensity.max())
    assert (made.train.t == (made.train.x[:, 1] % 2 == 0)).mean() > 0.99


def test_treatment_is_drawn_with_the_mf_score_and_the_log_shows_its_outcomes(large):
    t, e = large.train.t, large.train_truth.propensity
    assert e.std() > 0.1
    for rows in (np.arange(len(t)), *np.array_split(np.argsort(e), 5)):
        assert abs((t[rows] - e[rows]).sum()) <= 3 * np.sqrt((e[rows] * (1 - e[rows])).sum())
    np.testing.assert_array_equal(large.train.propensity, e)
    c, y = observe(large.train_truth.stratum, t)
    np.testing.assert_array_equal(large.train.c, c)
    np.testing.assert_array_equal(large.train.y, y)
    np.testing.assert_array_equal(large.train.x, large.train_truth.x)


def test_pairs_are_shuffled_before_the_split(large):
    rated = np.isin(large.test.stratum, (COUPON_TAKER, COUPON_BUYER, ALWAYS_BUYER)).mean()
    share = 6000 / 10_800
    assert abs(rated - share) <= 3 * (share * (1 - share) * 0.7 / len(large.test)) ** 0.5


def test_same_seed_same_bits_whatever_the_global_state_other_seed_other_bits(code):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = study()
    assert torch.equal(before, torch.get_rng_state())
    other = study(seed=1)
    for ours, same, different in zip(everything(code), everything(again), everything(other), strict=True):
        np.testing.assert_array_equal(ours, same)
        assert not np.array_equal(ours, different)
    for name in ("x", "t", "c", "y"):
        np.testing.assert_array_equal(getattr(code.train, name), getattr(again.train, name))


OBSERVED = np.stack(np.divmod(np.random.default_rng(3).choice(120, 30, replace=False), 10), axis=1)


@pytest.mark.parametrize("size", [10, 60], ids=["few of many", "most"])
def test_unobserved_pairs_are_a_uniform_sample_without_replacement(size):
    rng, counts, draws = np.random.default_rng(0), np.zeros(120), 1500
    seen = OBSERVED @ [10, 1]
    for _ in range(draws):
        pairs = sample_unobserved(OBSERVED, 12, 10, size, rng)
        assert pairs.shape == (size, 2) and pairs.dtype == np.int64
        assert (pairs >= 0).all() and (pairs < [12, 10]).all()
        codes = pairs @ [10, 1]
        assert len(np.unique(codes)) == size
        counts[codes] += 1
    assert counts[seen].sum() == 0
    free = np.delete(counts, seen)
    expected = draws * size / 90
    # Without replacement counts vary less than a multinomial's: by (90 - size) / 89.
    chi_square = ((free - expected) ** 2).sum() / expected * 89 / (90 - size)
    assert abs(chi_square - 89) <= 3 * (2 * 89) ** 0.5


@pytest.mark.parametrize(
    "n_free, size", [(90, 90), (90, 23), (90, 22), (400, 100), (401, 100), (5, 1), (1, 1), (7, 0)]
)
def test_ranks_are_distinct_in_both_ways_of_drawing(n_free, size):
    ranks = _distinct_ranks(n_free, size, np.random.default_rng(0))
    assert len(ranks) == size == len(np.unique(ranks))
    assert size == 0 or (ranks.min() >= 0 and ranks.max() < n_free)


class Repetitive:
    """A generator that starts with nothing but repeats, so that one round of drawing is not enough."""

    def __init__(self):
        self.rng, self.rounds = np.random.default_rng(0), 0

    def integers(self, low, high, size):
        self.rounds += 1
        return np.zeros(size, dtype=np.int64) if self.rounds < 3 else self.rng.integers(low, high, size)


def test_drawing_goes_on_until_there_are_enough_distinct_ranks():
    rng = Repetitive()
    ranks = _distinct_ranks(10_000, 50, rng)
    assert rng.rounds >= 3 and len(np.unique(ranks)) == len(ranks) == 50


def test_all_unobserved_pairs_can_be_drawn_and_not_one_more():
    drawn = sample_unobserved(OBSERVED, 12, 10, 90, np.random.default_rng(0)) @ [10, 1]
    assert sorted(np.concatenate([drawn, OBSERVED @ [10, 1]])) == list(range(120))
    with pytest.raises(StudyError, match=r"at most 90, the pairs of 12 users and 10 items.*found 91"):
        sample_unobserved(OBSERVED, 12, 10, 91, np.random.default_rng(0))


def test_a_table_of_the_size_of_yelp_takes_memory_for_the_pairs_drawn_only():
    n_users, n_items, n = 25_677, 25_815, 731_671
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, n_users * n_items, n + 2000))
    observed = np.stack(np.divmod(rng.permutation(codes)[:n], n_items), axis=1)
    tracemalloc.start()
    try:
        pairs = sample_unobserved(observed, n_users, n_items, int(0.8 * n), rng)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pairs.nbytes < peak < 200e6  # numpy's memory is traced
    drawn = np.unique(pairs @ [n_items, 1])
    assert len(observed) == n and len(drawn) == len(pairs) == 585_336
    assert not np.isin(drawn, codes[np.isin(codes, observed @ [n_items, 1])]).any()
    for column, size in ((0, n_users), (1, n_items)):
        assert pairs[:, column].min() >= 0 and pairs[:, column].max() < size
        mean, sd = (size - 1) / 2, size / 12**0.5
        assert abs(pairs[:, column].mean() - mean) <= 3 * sd / len(pairs) ** 0.5


def test_more_unobserved_pairs_than_exist_is_an_error_before_any_fit(fits):
    with pytest.raises(StudyError, match=r"unobserved pairs.*found 160 asked for.*unobserved_share"):
        study(ratings=made_up(20, 15, 200, 15))
    assert not fits


@pytest.mark.parametrize("threshold, ones", [(5, 0), (0.5, N_RATINGS)])
def test_one_outcome_class_only_is_an_error_that_names_the_threshold(threshold, ones, fits):
    ratings = cf.Ratings(
        RATINGS.user, RATINGS.item, RATINGS.rating, n_users=N_USERS, n_items=N_ITEMS, threshold=threshold
    )
    with pytest.raises(StudyError, match=rf"rating > {threshold}.*{ones} ones among 903.*threshold="):
        study(ratings=ratings)
    assert not fits


@pytest.mark.parametrize("propensity, treated", [(1e-12, 0), (1 - 1e-12, 70)])
def test_an_arm_that_is_empty_after_the_draw_is_an_error(propensity, treated):
    x = np.stack([np.arange(100), np.zeros(100, dtype=np.int64)], axis=1)
    pairs = cf.LabelledPairs(x, np.repeat(np.arange(5, dtype=np.int8), 20), np.full(100, propensity))
    with pytest.raises(StudyError, match=f"drawn treatment.*found {treated} treated of 70"):
        split_and_treat(
            pairs,
            n_users=100,
            n_items=1,
            train_share=0.7,
            rng=np.random.default_rng(0),
            dataset="x",
            labelling="code",
            construction="authors",
            seed=0,
            fingerprint="",
        )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labelling": "paper"}, "labelling: expected one of 'code', 'text', found 'paper'"),
        ({"construction": "paper"}, "construction: expected one of 'authors', 'document', found 'paper'"),
        ({"device": "gpu"}, "device: expected one of 'auto'.*found 'gpu'"),
    ],
)
def test_unknown_names_are_refused_before_any_fit(change, message, fits):
    with pytest.raises(UnknownNameError, match=message):
        cf.semisynthetic(RATINGS, **change)
    assert not fits


@pytest.mark.parametrize("n", [1, 2, 3, 10, 501])
def test_halves_are_those_of_a_stable_sort(n):
    score = np.round(np.random.default_rng(n).random(n), 1)  # with many ties
    ascending = np.argsort(score, kind="stable")
    expected = np.zeros(n, dtype=bool)
    expected[ascending[: n // 2]] = True
    np.testing.assert_array_equal(module._lower_half(score), expected)

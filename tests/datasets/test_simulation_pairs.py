"""Simulated studies follow their documented formulas; identities to 1e-9, draws within 3 standard errors."""

import numpy as np
import pytest
from scipy.special import expit, logit

import cfmtl_lib as cf
from cfmtl_lib import protocol
from cfmtl_lib.errors import InputError, StudyError, UnknownNameError
from cfmtl_lib.strata import POTENTIAL_OUTCOMES, observe

SIZES = {"n_users": 150, "n_items": 120, "n_pairs": 18_000}
GRID = {"n_users": 60, "n_items": 50, "n_pairs": 3000}
GAMMA = 1.5


def everything(study):
    """x, stratum, propensity and strata probabilities of training and test pairs, one below the other."""
    parts = (study.train_truth, study.test)
    return [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("x", "stratum", "propensity", "strata_probability")
    ]


def scores(study, overlap):
    """Affinity and take-up score of all pairs, recovered from propensity and strata probabilities."""
    _, _, e, p = everything(study)
    return (logit(e) - 0.3) * overlap, logit(p[:, 2:].sum(1)) - 0.2


def on_grid(study, values):
    """Values of all pairs as a table, users by items, where every pair was drawn."""
    x, *_ = everything(study)
    table = np.full(x.max(0) + 1, np.nan)
    table[tuple(x.T)] = values
    return table


def within_3_se(draws, probability):
    error = (draws - probability).sum() / np.sqrt((probability * (1 - probability)).sum())
    assert abs(error) <= 3, error


@pytest.mark.parametrize("labelling", protocol.LABELLINGS)
@pytest.mark.parametrize("construction", protocol.CONSTRUCTIONS)
def test_strata_follow_their_probabilities_overall_and_within_bins(labelling, construction):
    _, stratum, _, p = everything(cf.simulated(labelling, construction, 1, **SIZES))
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    assert (p > 0).all()
    for s in range(5):
        within_3_se(stratum == s, p[:, s])
        for rows in np.array_split(np.argsort(p[:, s]), 4):
            within_3_se(stratum[rows] == s, p[rows, s])


@pytest.mark.parametrize("construction", protocol.CONSTRUCTIONS)
def test_treatment_follows_the_propensity_overall_and_within_bins(construction):
    study = cf.simulated("code", construction, 2, **SIZES)
    t, e = study.train.t, study.train_truth.propensity
    np.testing.assert_array_equal(study.train.propensity, e)
    within_3_se(t, e)
    for rows in np.array_split(np.argsort(e), 5):
        within_3_se(t[rows], e[rows])


def test_treatment_is_unconfounded_within_each_stratum():
    study = cf.simulated("code", "authors", 3, **SIZES)
    for s in range(5):
        rows = study.train_truth.stratum == s
        within_3_se(study.train.t[rows], study.train_truth.propensity[rows])


def test_treatment_is_confounded_across_strata():
    for labelling, favoured in (("code", 3), ("text", 4)):
        study = cf.simulated(labelling, "authors", 3, **SIZES)
        e, stratum = study.train_truth.propensity, study.train_truth.stratum
        assert e[stratum == favoured].mean() > e[stratum == 7 - favoured].mean() + 0.05


def test_the_log_shows_the_potential_outcomes_under_the_drawn_treatment():
    study = cf.simulated(seed=4, **SIZES)
    c, y = observe(study.train_truth.stratum, study.train.t)
    np.testing.assert_array_equal(study.train.c, c)
    np.testing.assert_array_equal(study.train.y, y)
    np.testing.assert_array_equal(study.train.x, study.train_truth.x)
    c0, c1, y0, y1 = POTENTIAL_OUTCOMES[study.train_truth.stratum].T
    assert (c0 == 0).all() and (study.train.c[study.train.t == 0] == 0).all()
    assert (y1 == y0)[c1 == 0].all()  # exclusion
    assert (y1 >= y0)[c1 == 1].all()  # monotonicity
    assert set(study.train_truth.stratum) == set(study.test.stratum) == set(range(5))


@pytest.mark.parametrize("overlap", [None, 3.0])
@pytest.mark.parametrize("construction, default", [("authors", 0.85), ("document", 1.5)])
@pytest.mark.parametrize("labelling, sign", [("code", -1), ("text", 1)])
def test_probabilities_are_those_of_the_documented_formulas(labelling, sign, construction, default, overlap):
    study = cf.simulated(labelling, construction, 5, overlap=overlap, separation=GAMMA, **SIZES)
    s, k = scores(study, default if overlap is None else overlap)
    *_, p = everything(study)
    q, h, v = expit(0.2 + k), expit(0.3 + s), expit(sign * GAMMA * s)
    np.testing.assert_allclose(p[:, 4] / (p[:, 3] + p[:, 4]), v, atol=1e-9)
    np.testing.assert_allclose(p[:, 1] / (p[:, 0] + p[:, 1]), v, atol=1e-9)
    np.testing.assert_allclose((p[:, 3] + p[:, 4]) / p[:, 2:].sum(1), h, atol=1e-9)
    whole = [(1 - q) * (1 - v), (1 - q) * v, q * (1 - h), q * h * (1 - v), q * h * v]
    np.testing.assert_allclose(p, np.stack(whole, axis=1), atol=1e-9)


def test_labelling_changes_strata_only_and_construction_overlap_only():
    code, text = (cf.simulated(name, "authors", 6, **SIZES) for name in ("code", "text"))
    for ours, theirs, same in zip(
        everything(code), everything(text), (True, False, True, False), strict=True
    ):
        assert np.array_equal(ours, theirs) == same
    mild = cf.simulated("code", "document", 6, **SIZES)
    np.testing.assert_allclose(scores(code, 0.85)[0], scores(mild, 1.5)[0], atol=1e-9)
    np.testing.assert_array_equal(everything(code)[3], everything(mild)[3])


def test_separation_0_makes_affinity_tell_nothing_about_the_rule():
    *_, p = everything(cf.simulated(separation=0, **GRID))
    np.testing.assert_allclose(p[:, 3], p[:, 4], atol=1e-12)
    np.testing.assert_allclose(p[:, 0], p[:, 1], atol=1e-12)


def test_scores_without_low_rank_part_are_additive_with_the_documented_spread():
    users, items = 150, 120
    study = cf.simulated(
        n_users=users, n_items=items, n_pairs=users * items, low_rank=0, additive=0.8, seed=7
    )
    effects = []
    for score in scores(study, 0.85):
        table = on_grid(study, score)
        interaction = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        assert np.abs(interaction).max() < 1e-9
        for effect in (table.mean(1), table.mean(0)):
            assert abs(2 * effect.var(ddof=1) / 0.8**2 - 1) <= 3 * (2 / (len(effect) - 1)) ** 0.5
        effects.append(table.mean(1))
    assert abs(np.corrcoef(effects)[0, 1]) <= 3 / users**0.5  # take-up is drawn by itself


@pytest.mark.parametrize("rank", [1, 4])
def test_scores_with_low_rank_part_only_have_that_rank_and_the_documented_spread(rank):
    users, items = 150, 120
    study = cf.simulated(
        n_users=users, n_items=items, n_pairs=users * items, additive=0, low_rank=0.6, rank=rank, seed=8
    )
    for score in scores(study, 0.85):
        table = on_grid(study, score)
        singular = np.linalg.svd(table, compute_uv=False)
        assert singular[rank - 1] > 1 and singular[rank] < 1e-9
        se = (2 / rank * (1 / users + 1 / items) + 4 / (users * items)) ** 0.5
        assert abs((table**2).mean() / 0.6**2 - 1) <= 3 * se


def test_a_larger_overlap_is_closer_to_a_randomised_trial():
    narrow, wide, trial = (cf.simulated(overlap=value, seed=9, **SIZES) for value in (0.85, 1.5, 1e6))
    assert narrow.test.propensity.std() > 1.2 * wide.test.propensity.std()
    np.testing.assert_allclose(trial.test.propensity, expit(0.3), atol=1e-5)
    np.testing.assert_array_equal(narrow.test.stratum, trial.test.stratum)


@pytest.mark.parametrize("construction, low, high", [("authors", 0.17, 0.91), ("document", 0.30, 0.80)])
def test_default_overlaps_give_the_range_of_propensities_of_the_real_constructions(construction, low, high):
    e = np.concatenate(
        [
            cf.simulated("code", construction, seed, n_users=300, n_items=300, n_pairs=4000).test.propensity
            for seed in range(8)
        ]
    )
    np.testing.assert_allclose(np.quantile(e, [0.05, 0.95]), [low, high], atol=0.04)


def test_pairs_are_distinct_in_range_and_uniform():
    study = cf.simulated(n_users=40, n_items=30, n_pairs=900, seed=10)
    x, *_ = everything(study)
    assert x.dtype == np.int64 and x.shape == (900, 2)
    assert len(np.unique(x, axis=0)) == 900
    assert (len(study.train), len(study.test)) == (630, 270)
    assert (study.train.n_users, study.train.n_items) == (40, 30)
    counts = sum(
        np.bincount(
            everything(cf.simulated(n_users=8, n_items=5, n_pairs=20, seed=seed))[0] @ [5, 1], None, 40
        )
        for seed in range(400)
    )
    chi_square = ((counts - 200) ** 2).sum() / (200 * 0.5) * 39 / 40
    assert abs(chi_square - 39) <= 3 * (2 * 39) ** 0.5


def test_same_seed_same_bits_whatever_the_global_state_other_seed_other_bits():
    np.random.seed(1)  # noqa: NPY002 - to show that it has no effect
    first = everything(cf.simulated(seed=11, **GRID))
    np.random.seed(2)  # noqa: NPY002
    again, other = (cf.simulated(seed=seed, **GRID) for seed in (11, 12))
    for ours, same, different in zip(first, everything(again), everything(other), strict=True):
        np.testing.assert_array_equal(ours, same)
        assert not np.array_equal(ours, different)
    t = cf.simulated(seed=11, **GRID).train.t
    np.testing.assert_array_equal(t, again.train.t)


def test_fingerprint_names_the_settings_and_not_their_types():
    study = cf.simulated(**GRID)
    assert len(study.fingerprint) == 64
    assert study.fingerprint == cf.simulated("text", seed=1, **GRID).fingerprint
    assert study.fingerprint != cf.simulated(**GRID, rank=5).fingerprint
    assert study.fingerprint != cf.simulated(construction="document", **GRID).fingerprint
    other_types = {name: np.int32(value) for name, value in GRID.items()}
    assert study.fingerprint == cf.simulated(**other_types, overlap=np.float64(0.85)).fingerprint
    zero = cf.simulated(**GRID, low_rank=0).fingerprint
    assert zero == cf.simulated(**GRID, low_rank=0.0).fingerprint


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"labelling": "paper"}, UnknownNameError, "labelling.*'code', 'text'"),
        ({"construction": "paper"}, UnknownNameError, "construction.*'authors', 'document'"),
        ({"n_users": 0}, InputError, "n_users: expected a whole number >= 1, found 0"),
        ({"n_items": -3}, InputError, "n_items"),
        ({"n_users": 2.5}, InputError, "n_users"),
        ({"n_users": True}, InputError, "n_users"),
        ({"rank": 0}, InputError, "rank"),
        ({"rank": 1.5}, InputError, "rank"),
        ({"n_pairs": float("nan")}, InputError, "n_pairs"),
        ({"n_pairs": 3001}, InputError, "n_pairs: expected at most n_users .* = 3,000, found 3,001"),
        ({"additive": -0.1}, InputError, "additive: expected a finite number >= 0"),
        ({"low_rank": float("inf")}, InputError, "low_rank"),
        ({"separation": float("nan")}, InputError, "separation"),
        ({"separation": "much"}, InputError, "separation"),
        ({"overlap": 0}, InputError, "overlap: expected a finite number > 0"),
        ({"overlap": -1}, InputError, "overlap"),
        ({"n_pairs": 1}, StudyError, "drawn treatment"),
    ],
)
def test_bad_settings_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        cf.simulated(**(GRID | change))

"""Encodings of pairs: the formula, what they must not tell, and what they are refused for."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.estimators.pair_features import ENCODINGS, PairEncoder


@pytest.fixture(scope="module")
def log():
    return cf.simulated(n_users=40, n_items=30, n_pairs=900, seed=3).train


def noise(n=6000, seed=0):
    """Log in which nothing depends on user or item."""
    rng = np.random.default_rng(seed)
    t = rng.integers(0, 2, n)
    x = np.column_stack([rng.integers(0, 60, n), rng.integers(0, 40, n)])
    return cf.IncentiveLog(x, t, t * rng.integers(0, 2, n), rng.integers(0, 2, n), n_users=60, n_items=40)


def leave_one_out(log):
    """The same rates, from all rows of the id but the row itself."""
    t, c, y = (v.astype(float) for v in (log.t, log.c, log.y))
    columns = []
    for ids in log.x.T:
        for event, trial in ((t, 1 + 0 * t), (t * y, t), (y - t * y, 1 - t), (c, t), (c * y, t)):
            sums = [np.bincount(ids, values)[ids] - values for values in (event, trial)]
            overall = event.sum() / trial.sum()
            columns.append(logit((sums[0] + 10 * overall) / (sums[1] + 10)))
        columns.append(np.log1p(np.bincount(ids))[ids])
    return np.column_stack(columns)


def test_a_row_is_encoded_from_the_other_folds(log):
    encoder = PairEncoder(folds=4, prior=3.0, seed=5)
    encoded = encoder.fit_transform(log)
    fold = np.random.default_rng(5).permutation(len(log)) % 4
    for row in (0, 17, 200):
        for side, ids in enumerate(log.x.T):
            others = (ids == ids[row]) & (fold != fold[row])
            treated = others & (log.t == 1)
            overall = ((log.y * log.t).sum() + 0.5) / (log.t.sum() + 1)
            expected = logit((log.y[treated].sum() + 3 * overall) / (treated.sum() + 3))
            assert encoded[row, side * len(ENCODINGS) + 1] == pytest.approx(expected, abs=1e-12)
            own = (ids == ids[row]).sum()
            assert encoded[row, side * len(ENCODINGS) + 5] == pytest.approx(np.log1p(own), abs=1e-12)


def test_new_pairs_are_encoded_from_the_whole_log(log):
    space = (41, 30)  # the last user has no row
    wide = cf.IncentiveLog(log.x, log.t, log.c, log.y, n_users=space[0], n_items=space[1])
    encoder = PairEncoder(prior=2.0).fit(wide)
    user, untreated = wide.x[:, 0] == 7, wide.t == 0
    overall = (wide.y[untreated].sum() + 0.5) / (untreated.sum() + 1)
    expected = (wide.y[user & untreated].sum() + 2 * overall) / ((user & untreated).sum() + 2)
    found = encoder.transform([[7, 3], [40, 3]])
    assert expit(found[0, 2]) == pytest.approx(expected, abs=1e-12)
    assert expit(found[1, 2]) == pytest.approx(overall, abs=1e-12) and found[1, 5] == 0
    np.testing.assert_array_equal(found[0, 6:], found[1, 6:])


def test_the_prior_count_is_that_of_the_world():
    """Rates of users drawn from a beta distribution of 6 rows, of items all alike."""
    rng = np.random.default_rng(1)
    rate, x = rng.beta(2.4, 3.6, 400), np.column_stack([rng.integers(0, 400, 40_000), np.arange(40_000) % 50])
    t = rng.integers(0, 2, 40_000)
    log = cf.IncentiveLog(x, t, 0 * t, rng.random(40_000) < rate[x[:, 0]])
    prior = PairEncoder().fit(log).prior_
    assert 5 < prior[0, 1] < 7.2 and 5 < prior[0, 2] < 7.2
    assert (prior[1] > 500).all()


def test_noise_looks_like_signal_where_rows_are_left_out_one_by_one_and_not_where_folds_are():
    """Nothing depends on the ids. Of a row alone left out, even rows held out of a fit tell the outcome."""
    learner = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=31, random_state=0)
    losses: dict = {"folds": [], "one out": []}
    for seed in range(3):
        train, later = noise(seed=seed), noise(seed=100 + seed)
        encoder, fitted = PairEncoder(prior=10.0, seed=seed), np.arange(len(train)) % 2 == 0
        encoded = {"folds": encoder.fit_transform(train), "one out": leave_one_out(train)}
        for name, x in encoded.items():
            model = clone(learner).fit(x[fitted], train.y[fitted])
            held_out, new = (
                model.predict_proba(rows)[:, 1] for rows in (x[~fitted], encoder.transform(later))
            )
            losses[name].append((log_loss(train.y[~fitted], held_out), log_loss(later.y, new)))
    folds, one_out = (np.mean(losses[name], axis=0) for name in ("folds", "one out"))
    assert one_out[0] < 0.3 * np.log(2) and folds[0] > np.log(2)
    assert folds[1] < 0.75 and folds[1] < one_out[1] - 0.1


def test_the_seed_decides_the_folds(log):
    first, again, other = (PairEncoder(seed=seed).fit_transform(log) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(
        PairEncoder(seed=0).fit(log).transform(log), PairEncoder(seed=1).fit(log).transform(log)
    )


@pytest.mark.parametrize("setting", [{"folds": 1}, {"folds": 101}, {"prior": 0.0}, {"seed": None}])
def test_settings_are_checked(log, setting):
    with pytest.raises(InputError, match=f"{next(iter(setting))}: expected"):
        PairEncoder(**setting).fit(log)


def test_only_pairs_are_encoded(log):
    encoder = PairEncoder().fit(log)
    with pytest.raises(InputError, match="log: expected an IncentiveLog"):
        PairEncoder().fit(log.x)
    with pytest.raises(LogError, match="user and item ids"):
        PairEncoder().fit(cf.simulated_features(200).log)
    with pytest.raises(LogError, match=r"x \(user id\): expected ids 0-39"):
        encoder.transform([[40, 0]])

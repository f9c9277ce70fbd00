"""The default nuisances on features: candidates, their combination, and what few events admit."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, TrustWarning
from cfmtl_lib.experiments.evaluation.worlds import WORLDS, draw_log
from cfmtl_lib.nuisances.boosted import BoostedClassifier, BoostedRegressor, boosting
from cfmtl_lib.nuisances.stacking import ShortStack

EVERYONE = slice(None)


def stack(x, target, fold, **options):
    made = ShortStack("target", target, np.ones(len(target), dtype=bool), fold, **options)
    for k in range(int(fold.max()) + 1):
        made.fit_part(x, k)
    return made


@pytest.fixture(scope="module")
def strong():
    drawn = draw_log(WORLDS["strong confounding"], [0, 0], 1500)
    fold = np.arange(1500) % 3
    truth = expit(WORLDS["strong confounding"].treatment(drawn.x)).clip(0.02, 0.98)
    return drawn.log, truth, stack(drawn.log.x, drawn.log.t, fold), fold


def test_the_stack_is_near_the_best_candidate_and_nearer_than_boosting_alone(strong):
    log, truth, made, fold = strong
    loss = log_loss(log.t, made.combined())
    candidates = [log_loss(log.t, expit(logits)) for logits in made._logits.T]
    assert len(candidates) == 4
    assert loss < min(candidates) + 0.01
    boosted = np.empty(len(log))
    for k in range(3):
        model = BoostedClassifier().fit(log.x[fold != k], log.t[fold != k])
        boosted[fold == k] = model.predict_proba(log.x[fold == k])[:, 1]
    error, of_boosting = (np.sqrt(np.square(p - truth).mean()) for p in (made.combined(), boosted))
    assert error < 0.75 * of_boosting


def test_candidates_have_not_seen_the_rows_that_they_predict(strong):
    log, _, made, fold = strong
    other = log.t.copy()
    other[fold == 0] = 1 - other[fold == 0]  # would turn round what is learnt from these rows
    again = ShortStack("target", other, np.ones(len(log), dtype=bool), fold)
    again.fit_part(log.x, 0)
    np.testing.assert_array_equal(again._logits[fold == 0], made._logits[fold == 0])


def test_weights_of_candidates_come_from_the_other_folds(strong):
    _, _, made, fold = strong
    before, target = made.combined(), made.target
    made.target = np.where(fold == 0, 1 - target, target)
    after = made.combined()
    made.target = target
    np.testing.assert_array_equal(after[fold == 0], before[fold == 0])
    assert np.abs(after - before)[fold == 1].max() > 0.01


def test_the_combination_is_calibrated_where_a_candidate_is_too_sure(strong):
    log, _, made, _ = strong
    late = made._logits[:, -1]  # boosting to the end
    slope = [
        LogisticRegression(C=1e6).fit(z[:, None], log.t).coef_[0, 0]
        for z in (late, np.log(made.combined() / (1 - made.combined())))
    ]
    assert slope[0] < 0.9 and abs(slope[1] - 1) < abs(slope[0] - 1)


@pytest.mark.parametrize(("events", "level"), [(0, "constant"), (8, "rate"), (30, "logistic"), (90, "stack")])
def test_few_events_admit_fewer_candidates(events, level):
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(400, 2)), np.zeros(400, dtype=int)
    target[rng.permutation(400)[:events]] = 1
    made = stack(x, target, np.arange(400) % 4)
    assert made.level == level
    p = made.combined()
    assert ((p == 0).all() if events == 0 else (p > 0).all()) and (p < 1).all()
    assert p.mean() == pytest.approx(events / 400, abs=0.02)
    if level == "rate":
        training = target[np.arange(400) % 4 != 0]
        assert p[0] == pytest.approx((training.sum() + 0.5) / (len(training) + 1))


def test_few_events_are_told_and_the_value_is_right():
    rng = np.random.default_rng(1)
    n = 12_000
    t = rng.integers(0, 2, n)
    c = np.zeros(n, dtype=int)
    c[rng.choice(np.flatnonzero(t), 3, replace=False)] = 1
    y = (rng.random(n) < 0.3 + 0.1 * t).astype(int)
    log = cf.IncentiveLog(rng.normal(size=(n, 3)), t, c, y)
    with pytest.warns(TrustWarning, match=r"collected_treated by the rate of all rows \(2 rows"):
        nuisances = cf.crossfit(log, folds=3)
    value = cf.policy_value(np.ones(n), log, nuisances, cost=0.4)
    assert abs(value.value - 1.4 * 0.1) < 3 * value.standard_error + 0.001
    with pytest.warns(TrustWarning, match="3 rows"):
        rewards = cf.CFOR().fit(log).predict_reward(log.x[:5], "coupon", 0.4)
    assert np.isfinite(rewards).all()


def test_forty_rows_are_enough_to_get_an_answer():
    rng = np.random.default_rng(0)
    log = cf.IncentiveLog(rng.normal(size=(40, 2)), np.arange(40) % 2, np.zeros(40), rng.integers(0, 2, 40))
    with pytest.warns(TrustWarning, match="Few events"):
        nuisances = cf.crossfit(log)
    for name, mean in nuisances.means().items():
        assert np.isfinite(mean).all(), name


def test_columns_that_are_empty_in_an_arm_or_a_fold_are_left_out_of_account():
    rng = np.random.default_rng(2)
    n = 600
    t = rng.integers(0, 2, n)
    table = pd.DataFrame(
        {
            "seen": rng.normal(size=n),
            "treated_only": np.where(t == 1, rng.normal(size=n), np.nan),
            "lately": np.where(np.arange(n) < 2, 1.0, np.nan),
            "t": t,
            "c": t * rng.integers(0, 2, n),
            "y": rng.integers(0, 2, n),
        }
    )
    log = cf.IncentiveLog.from_frame(
        table,
        treatment="t",
        collected="c",
        converted="y",
        features=["seen", "treated_only", "lately"],
    )
    nuisances = cf.crossfit(log, folds=np.arange(n) % 3)  # rows 0 and 1 lie in two folds
    assert all(np.isfinite(mean).all() for mean in nuisances.means().values())
    rewards = cf.CFOR().fit(log.take(np.arange(n) >= 2)).predict_reward(table, "coupon", 0.4)
    assert np.isfinite(rewards).all()
    assert np.isfinite(cf.CFDR(folds=2).fit(log).predict_reward(table, "coupon", 0.4)).all()


def test_a_category_of_many_levels_enters_by_its_means():
    rng = np.random.default_rng(3)
    n, levels = 6000, 300
    shop = rng.integers(0, levels, n)
    rate = rng.uniform(0.1, 0.9, levels)
    target = (rng.random(n) < rate[shop]).astype(int)
    made = stack(shop[:, None] + 1.0, target, np.arange(n) % 2, many=(0,))
    assert np.corrcoef(made.combined(), rate[shop])[0, 1] > 0.8


def test_a_fold_without_training_rows_is_refused():
    rows = np.array([True, True, False, False])
    with pytest.raises(InputError, match="fold 0: expected rows to fit target"):
        ShortStack("target", np.array([0, 1, 0, 1]), rows, np.array([0, 0, 1, 1]))


def test_boosting_with_enough_events_is_what_it_was():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(500, 3))
    y = (x[:, 0] + rng.normal(size=500) > 0).astype(int)
    plain = boosting(HistGradientBoostingClassifier, 500, 7).fit(x, y)
    np.testing.assert_array_equal(
        BoostedClassifier(seed=7).fit(x, y).predict_proba(x), plain.predict_proba(x)
    )
    assert boosting(HistGradientBoostingClassifier, 12_000).early_stopping is True
    assert boosting(HistGradientBoostingClassifier, 12_000, n_events=99).early_stopping is False


def test_boosting_leaves_out_columns_without_numbers():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 2))
    y = (x[:, 0] > 0).astype(int)
    empty = np.column_stack([x, np.full(300, np.nan)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (BoostedClassifier, BoostedRegressor):
            found = kind().fit(empty, y).predict(np.column_stack([x, np.arange(300.0)]))
            np.testing.assert_array_equal(found, kind().fit(x, y).predict(x))


def test_a_part_of_a_large_log_keeps_its_rare_events_and_their_rate(monkeypatch):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(20_000, 2))
    target = np.zeros(20_000, dtype=int)
    target[rng.choice(20_000, 90, replace=False, p=np.exp(x[:, 0]) / np.exp(x[:, 0]).sum())] = 1
    monkeypatch.setattr("cfmtl_lib.nuisances.stacking.ROWS_OF_LOGISTIC", 300)
    for events, level in ((90, "stack"), (24, "logistic")):
        rare = target.copy()
        rare[np.flatnonzero(rare)[events:]] = 0
        made = stack(x, rare, np.arange(20_000) % 3)
        p = made.combined()
        assert made.level == level
        assert p.mean() == pytest.approx(events / 20_000, rel=0.25)
        assert np.corrcoef(np.log(p), x[:, 0])[0, 1] > 0.4

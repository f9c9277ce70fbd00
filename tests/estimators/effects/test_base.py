"""What all learners of effects share: kinds of x, samples of large logs, files, words of refusal."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError, ModelFileError
from cfmtl_lib.estimators.effects import EffectEstimator
from cfmtl_lib.estimators.effects.base import CATE, EffectInput, reward_of_effects
from cfmtl_lib.estimators.effects.other_libraries import library_errors
from cfmtl_lib.estimators.pair_features import PairEncoder

NEEDS = {"causal forest": "econml", "BART": "stochtree", "BCF": "stochtree"}
FEW = {"n_trees": 20, "n_grown": 5, "n_draws": 5}
MODELS = {
    "X-learner": cf.XLearner,
    "causal forest": lambda **given: cf.CausalForest(**{"n_trees": 20, "min_leaf": 5, "folds": 2} | given),
    "BART": lambda **given: cf.BART(**FEW | given),
    "BCF": lambda **given: cf.BCF(**FEW | given),
}


@pytest.fixture(params=MODELS)
def make(request):
    needed = NEEDS.get(request.param)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}: pip install -e '.[baselines]'")
    return MODELS[request.param]


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=40, n_items=30, n_pairs=900, seed=1)


@pytest.fixture(scope="module")
def campaign():
    return cf.simulated_campaign(600, seed=1)


def test_pairs_are_encoded_from_other_folds_at_fit_and_from_all_rows_later(study):
    class Spy(EffectEstimator):
        def __init__(self, seed=0, progress=False):
            self.seed, self.progress = seed, progress

        def _fit_effects(self, log):
            self.seen_ = log

        def _effects(self, x, names):
            return dict.fromkeys(names, x[:, 0])

    model = Spy(seed=4).fit(study.train)
    encoder = PairEncoder(seed=4)
    np.testing.assert_array_equal(model.seen_.x, encoder.fit_transform(study.train))
    np.testing.assert_array_equal(model.predict_cate(study.test.x), encoder.transform(study.test.x)[:, 0])
    with pytest.raises(InputError, match="score: expected a learner that predicts the mean of each arm"):
        model.score(study.train)


def test_pairs_and_pairs_with_features_are_fitted(make, study):
    train, numbers = study.train, np.random.default_rng(0).normal(size=(len(study.train), 1))
    model = make(seed=2).fit(train)
    cate = model.predict_cate(study.test.x)
    assert cate.shape == (len(study.test.x),) and np.isfinite(cate).all() and cate.std() > 0
    np.testing.assert_array_equal(make(seed=2).fit(train).predict_cate(study.test.x), cate)
    both = cf.IncentiveLog((train.x, numbers), train.t, train.c, train.y, n_users=300, n_items=30)
    beside = make().fit(both)
    assert beside.input_.ids_ == (0,)  # 300 users are too many for sets, 30 items are not
    reward = beside.predict_reward((train.x, numbers), "coupon", 0.4)
    np.testing.assert_array_equal(beside.predict_reward(both, "coupon", 0.4), reward)
    assert np.isfinite(reward).all()
    effects = model.predict_effects(study.test.x)
    for scenario in ("coupon", "cash"):
        np.testing.assert_array_equal(
            reward_of_effects(effects, scenario, 0.3), model.predict_reward(study.test.x, scenario, 0.3)
        )
    np.testing.assert_array_equal(effects[CATE], cate)


def test_tables_with_categories_and_missing_numbers_are_fitted(make, campaign):
    model = make().fit(campaign.log())
    reward = model.predict_reward(campaign.table, "cash", 0.4)
    assert np.isfinite(reward).all() and reward.std() > 0.01
    one = model.predict_reward(campaign.table[:1], "cash", 0.4)
    np.testing.assert_allclose(one, reward[:1], atol=1e-9)
    costs = pd.Series(np.linspace(0, 0.5, 600), index=campaign.table.index)
    paid = (model.predict_cate(campaign.table) - reward) / 0.4 + model.predict_cate(campaign.table)
    expected = (1 + costs) * model.predict_cate(campaign.table) - costs * paid
    np.testing.assert_allclose(model.predict_reward(campaign.table, "cash", costs), expected, atol=1e-9)


def test_large_logs_are_fitted_to_a_stated_sample(make, world):
    model = make(max_rows=500, seed=3).fit(world.log)
    assert model.n_rows_ == 500
    rows = np.sort(np.random.default_rng(3).choice(len(world.log), 500, replace=False))
    np.testing.assert_array_equal(
        model.predict_cate(world.new), make(seed=3).fit(world.log.take(rows)).predict_cate(world.new)
    )
    with pytest.raises(InputError, match="max_rows: expected a whole number >= 2"):
        make(max_rows=1).fit(world.log)


def test_logs_in_files_are_refused_in_words(make, study, tmp_path):
    train = study.train
    pd.DataFrame(
        {"user": train.x[:, 0], "item": train.x[:, 1], "t": train.t, "c": train.c, "y": train.y}
    ).to_parquet(tmp_path / "part.parquet")
    files = cf.ParquetLog(tmp_path, treatment="t", collected="c", converted="y")
    with pytest.raises(InputError, match="log: expected a log in memory, found a log in files"):
        make().fit(files)


def test_an_arm_without_events_is_no_error(make, world):
    nobody = cf.IncentiveLog(world.log.x, world.log.t, 0 * world.log.c, world.log.y * world.log.t)
    reward = make().fit(nobody).predict_reward(world.new, "cash", 0.4)
    assert np.isfinite(reward).all()


def test_few_rows_of_an_arm_are_fitted_or_refused_in_words(make, world):
    few = world.log.take(np.r_[np.flatnonzero(world.log.t == 1)[:3], np.flatnonzero(world.log.t == 0)[:30]])
    try:
        model = make().fit(few)
    except LogError as error:
        assert "at least 20 rows in each arm" in str(error) and "found 3 with t = 1" in str(error)
    else:
        assert np.isfinite(model.predict_reward(few, "cash", 0.4)).all()


def test_columns_without_variation_are_fitted(make, world):
    log = world.log.take(np.arange(200))
    flat = cf.IncentiveLog(np.column_stack([log.x, np.ones(200)]), log.t, log.c, log.y)
    assert np.isfinite(make().fit(flat).predict_reward(flat, "cash", 0.4)).all()


def test_an_error_inside_another_library_says_which_fit_it_was():
    with (
        pytest.raises(
            InputError, match=r"BCF: expected a log .* stochtree can fit, found ValueError: no leaf"
        ),
        library_errors("BCF", "stochtree"),
    ):
        raise ValueError("no leaf\nsecond line")


def test_saved_models_predict_the_same_or_are_refused(make, study, tmp_path):
    lines = {"outcome": LogisticRegression(), "effect": LinearRegression()} if make is cf.XLearner else {}
    model = make(**lines).fit(study.train)
    if model.cannot_be_saved:
        with pytest.raises(ModelFileError, match=r"found .* with (trees|draws) of .* the same seed"):
            cf.save(model, tmp_path / "model.safetensors")
        return
    cf.save(model, tmp_path / "model.safetensors")
    again = cf.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        again.predict_reward(study.test.x, "coupon", 0.4), model.predict_reward(study.test.x, "coupon", 0.4)
    )


def test_ids_of_a_file_are_columns_that_its_encoder_has(study):
    encoder = PairEncoder().fit(study.train)
    whole = {"seed": 0, "encoder": encoder, "ids": (0, 1)}
    assert EffectInput.from_parts(whole, None).ids_ == (0, 1)
    for wrong in ({"ids": (0,)}, {"ids": (0, 0)}, {"ids": (0, -1)}, {"encoder": None}, {"ids": (0, 1.5)}):
        with pytest.raises(InputError, match="ids: expected"):
            EffectInput.from_parts(whole | wrong, None)

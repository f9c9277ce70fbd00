"""Cross-fitting: no row helps to predict itself; any classifier, folds that are given, known propensities."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError, UnknownNameError
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.nuisances.boosted import boosting
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.policy.rewards import payment_of

SMALL = cf.FitConfig(embedding_k=4, tolerance=1e-2, batch_size=200)


class Memory(ClassifierMixin, BaseEstimator):
    """Answers with the label of a row that it has seen, and with 0.5 for any other."""

    def fit(self, x, y):
        self.seen_ = dict(zip(x[:, 0].tolist(), y.tolist(), strict=True))
        return self

    def predict_proba(self, x):
        one = np.array([self.seen_.get(row, 0.5) for row in x[:, 0].tolist()])
        return np.stack([1 - one, one], axis=1)


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    t = rng.integers(0, 2, 600)
    return cf.IncentiveLog(np.arange(600.0)[:, None], t, t * rng.integers(0, 2, 600), rng.integers(0, 2, 600))


def test_no_row_helps_to_predict_itself(log):
    for folds in (2, 5, np.arange(600) // 200):
        apart = cf.crossfit(log, outcome=Memory(), propensity=Memory(), folds=folds)
        for name in ("propensity", *MOMENTS):
            assert (getattr(apart, name) == 0.5).all(), name
    together = cf.crossfit(log, outcome=Memory(), propensity=Memory(), folds=1)
    assert (together.propensity == log.t).all()
    assert (together.converted_untreated[log.t == 0] == log.y[log.t == 0]).all()


def test_each_mean_is_fitted_on_its_arm_and_outcome():
    rng = np.random.default_rng(1)
    n = 40_000
    t = (rng.random(n) < 0.3).astype(int)
    c = t * (rng.random(n) < 0.6)
    y = np.where(c == 1, rng.random(n) < 0.8, rng.random(n) < 0.1 + 0.1 * t)
    log = cf.IncentiveLog(rng.normal(size=(n, 1)), t, c, y)
    means = cf.crossfit(log, outcome=LogisticRegression(), propensity=LogisticRegression())
    expected = {
        "propensity": 0.3,
        "converted_treated": 0.6 * 0.8 + 0.4 * 0.2,
        "converted_untreated": 0.1,
        "collected_treated": 0.6,
        "collected_and_converted_treated": 0.48,
    }
    for name, value in expected.items():
        error = 3 * np.sqrt(value * (1 - value) / (0.3 * n))
        assert abs(getattr(means, name).mean() - value) <= error, name


def test_known_propensities_are_used_and_marked(log):
    designed = cf.IncentiveLog(log.x, log.t, log.c, log.y, propensity=np.full(600, 0.5))
    found = cf.crossfit(designed, outcome=LogisticRegression())
    assert found.propensity_is_known and (found.propensity == 0.5).all()
    given = cf.crossfit(log, outcome=LogisticRegression(), propensity=np.full(600, 0.4))
    assert given.propensity_is_known and (given.propensity == 0.4).all()
    assert not cf.crossfit(log, outcome=LogisticRegression()).propensity_is_known
    refitted = cf.crossfit(designed, outcome=LogisticRegression(), propensity=LogisticRegression())
    assert not refitted.propensity_is_known


def test_one_class_in_a_fold_is_a_constant(log):
    nobody_collects = cf.IncentiveLog(log.x, log.t, np.zeros(600), log.y)
    found = cf.crossfit(nobody_collects, outcome=LogisticRegression(), propensity=LogisticRegression())
    assert (found.collected_treated == 0).all() and (found.collected_and_converted_treated == 0).all()


def test_pairs_get_networks_that_know_the_whole_space():
    study = cf.simulated(n_users=40, n_items=30, n_pairs=900)
    network = cf.PairClassifier(config=SMALL)
    found = cf.crossfit(study.train, outcome=network, folds=3)
    assert found.propensity_is_known and network.pair_space is None
    assert ((found.converted_treated > 0) & (found.converted_treated < 1)).all()
    by_features = cf.crossfit(
        study.train, outcome=LogisticRegression(), features=study.train.x.astype(float), folds=2
    )
    assert len(by_features) == len(study.train)


def test_ids_are_not_taken_for_quantities():
    study = cf.simulated(n_users=40, n_items=30, n_pairs=900)
    for options in ({"outcome": LogisticRegression()}, {"propensity": LogisticRegression()}):
        with pytest.raises(InputError, match=r"learner: .*ids for quantities"):
            cf.crossfit(study.train, **options)
    with pytest.raises(InputError, match="propensity"):
        cf.crossfit(study.train, propensity=[0.5])


def test_bad_folds_and_features_are_refused(log):
    for folds in (True, None, 0, 1.5, 601, np.zeros(600, dtype=int), np.arange(5)):
        with pytest.raises(InputError, match="folds"):
            cf.crossfit(log, outcome=Memory(), folds=folds)
    with pytest.raises(InputError, match="features"):
        cf.crossfit(log, outcome=Memory(), features=np.zeros((3, 1)))
    with pytest.raises(InputError, match="outside the fold"):
        cf.crossfit(log, outcome=Memory(), propensity=Memory(), folds=log.t.astype(int))


def test_pair_classifier_is_a_scikit_learn_classifier():
    study = cf.simulated(n_users=40, n_items=30, n_pairs=900)
    x, y = study.train.x, study.train.y
    for name, kind in (("additive", AdditiveNetwork), ("factorization", FactorizationNetwork)):
        model = cf.PairClassifier(name, config=SMALL, seed=3)
        copy = clone(model)
        assert copy.get_params() == model.get_params()
        np.testing.assert_array_equal(model.fit(x, y).predict_proba(x), copy.fit(x, y).predict_proba(x))
        assert isinstance(model.network_, kind) and model.score(x, y) > 0.5
        np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1, atol=1e-12)
    with pytest.raises(UnknownNameError, match="network"):
        cf.PairClassifier("deep").fit(x, y)
    with pytest.raises(InputError, match="0/1"):
        cf.PairClassifier(config=SMALL).fit(x, y + 0.5)
    with pytest.raises(LogError, match="user id"):
        cf.PairClassifier(pair_space=(3, 3), config=SMALL).fit(x, y)


def test_boosting_spares_rows_to_stop_on_only_where_there_are_many():
    few, many = (boosting(HistGradientBoostingClassifier, n) for n in (500, 50_000))
    assert (few.early_stopping, many.early_stopping) == (False, True)


@pytest.mark.parametrize("scenario", cf.SCENARIOS)
def test_what_a_scenario_pays_for_is_the_moment_that_it_names(scenario):
    collected, converted = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]).T
    payment = payment_of(scenario)
    moment = MOMENTS[payment.moment]
    expected = moment.outcome(collected, converted)
    np.testing.assert_array_equal(payment.is_due(collected, converted), expected)
    assert moment.arm == 1

"""scikit-learn's manners: parameters, Pipeline, GridSearchCV, and its own checks where they apply."""

import dataclasses
import inspect
import warnings
from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import cfmtl_lib as cf
from cfmtl_lib.datasets.simulation_campaign import CAMPAIGN_FEATURES
from cfmtl_lib.errors import LogError, UnknownCategoryWarning
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.runtime.registry import ESTIMATORS

LOGISTIC = LogisticRegression(max_iter=500)


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(2000, seed=8)


@pytest.fixture(scope="module")
def y(study):
    return np.column_stack([study.log.t, study.log.c, study.log.y])


def test_x_and_y_are_a_log(study, y):
    by_log = cf.CFOR(outcome=LOGISTIC).fit(study.log)
    by_arrays = cf.CFOR(outcome=LOGISTIC).fit(study.log.x, y)
    np.testing.assert_array_equal(by_arrays.predict_strata(study.log.x), by_log.predict_strata(study.log))
    assert by_arrays.n_features_in_ == 5 and not hasattr(by_arrays, "feature_names_in_")
    with pytest.raises(LogError, match="none, as the log holds the outcomes"):
        cf.CFOR().fit(study.log, y)
    for wrong in (None, y[:, 0], y[:, :2]):
        with pytest.raises(LogError, match=r"y: expected shape \(n, 3\)"):
            cf.CFOR().fit(study.log.x, wrong)


def test_a_pipeline_prepares_features_and_predicts(study, y):
    model = make_pipeline(StandardScaler(), cf.CFOR(outcome=LOGISTIC)).fit(study.log.x, y)
    p = model.predict_proba(study.log.x)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    reward = model.predict(study.log.x, scenario="cash", cost=0.2)
    np.testing.assert_allclose(reward, cf.expected_reward(p, "cash", 0.2), atol=1e-12)
    assert model.score(study.log.x, y) == pytest.approx(model[-1].score(model[0].transform(study.log.x), y))


def test_a_pipeline_picks_columns_of_a_table():
    table = cf.simulated_campaign(800, seed=1, missing=0.0).table
    y = table[["mailed", "redeemed", "bought"]]
    picked = ColumnTransformer([("numbers", StandardScaler(), ["age", "orders", "days_since_order"])])
    model = make_pipeline(picked, cf.OR(outcome=LOGISTIC)).fit(table, y)
    assert model.predict(table).shape == (800,)


def test_tables_need_no_log():
    """Columns of a table keep their categories through the parts of a cross-validation."""
    table = cf.simulated_campaign(1200, seed=1).table
    y, x = table[["mailed", "redeemed", "bought"]], table[list(CAMPAIGN_FEATURES)]
    x = x.assign(city=x["city"].astype("category"), channel=x["channel"].astype("category"))
    model = cf.CFOR(outcome=LOGISTIC)
    scores = cross_val_score(model, x, y, cv=3)
    assert scores.shape == (3,) and np.isfinite(scores).all()
    fitted = model.fit(x, y)
    assert fitted.feature_names_in_.tolist() == list(CAMPAIGN_FEATURES)
    log = cf.IncentiveLog.from_xy(x, y)
    assert fitted.score(x, y) == fitted.score(log) == fitted.score(log.x, y)


def test_a_search_scores_folds_with_a_category_that_their_training_rows_lack():
    """One customer of a rare city: his fold counts the city as missing, with a warning, and has a score."""
    table = cf.simulated_campaign(600, seed=1, missing=0.0).table
    y, names = table[["mailed", "redeemed", "bought"]], ["age", "orders", "city"]
    x = table[names].assign(city=table["city"].where(table.index != 5, "Elsewhere"))
    model, grid = cf.CFOR(outcome=LOGISTIC), {"outcome__C": [1e-6, 1.0]}
    with pytest.warns(UnknownCategoryWarning, match=r"column 'city': 1 of 200 rows .* 'Elsewhere' for one"):
        search = GridSearchCV(model, grid, cv=3, error_score="raise").fit(x, y)
    missing = x.assign(city=x["city"].where(x.index != 5, None))
    expected = GridSearchCV(model, grid, cv=3).fit(missing, y).cv_results_
    np.testing.assert_allclose(search.cv_results_["split0_test_score"], expected["split0_test_score"])
    fitted = cf.CFOR(outcome=LOGISTIC).fit(missing, y)
    with pytest.warns(UnknownCategoryWarning):
        np.testing.assert_array_equal(fitted.predict(x), fitted.predict(missing))
    with pytest.warns(UnknownCategoryWarning):
        np.testing.assert_array_equal(fitted.predict_proba(x), fitted.predict_strata(missing))
    for ask in (lambda: fitted.predict_reward(x, "coupon", 0.4), lambda: fitted.predict_strata(x)):
        with pytest.raises(LogError, match=r"column 'city': expected one of .* found 'Elsewhere'"):
            ask()


def test_grid_search_finds_the_better_setting(study, y):
    grid = {"outcome__C": [1e-6, 1.0]}
    search = GridSearchCV(cf.CFOR(outcome=LOGISTIC), grid, cv=3).fit(study.log.x, y)
    assert search.best_params_ == {"outcome__C": 1.0}
    assert search.best_estimator_.predict_strata(study.log.x).shape == (2000, 5)
    by_value = GridSearchCV(
        cf.OR(outcome=LOGISTIC), grid, cv=2, scoring=cf.policy_value_scorer(cost=0.2, budget=0.2, folds=2)
    ).fit(study.log.x, y)
    assert by_value.best_params_ == {"outcome__C": 1.0}
    networks = {"config": [cf.FeatureConfig(hidden=h, n_networks=1, fit=QUICK) for h in ((), (8,))]}
    assert GridSearchCV(cf.CFMTL(), networks, cv=2).fit(study.log.x, y).best_score_ > -1.2


QUICK = FitConfig(learning_rate=0.02, batch_size=200, tolerance=0.01, patience=2)
SMALL_NETWORK = cf.FeatureConfig(hidden=(4,), n_networks=1, fit=QUICK)


class Adapted:
    """scikit-learn's checks pass a y of one column: here it becomes given, collected and converted."""

    def fit(self, X, y=None):
        return super().fit(as_floats(X), as_outcomes(y))

    def score(self, X, y=None):
        return super().score(as_floats(X), as_outcomes(y))

    def predict(self, X):
        return super().predict(as_floats(X))

    def predict_proba(self, X):
        return super().predict_proba(as_floats(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.one_d_labels = True
        tags.target_tags.two_d_labels = False
        return tags


def as_outcomes(y):
    if y is None:
        raise ValueError("This estimator requires y to be passed, but the target y is None")
    target = np.unique(np.asarray(y).reshape(len(y), -1)[:, 0], return_inverse=True)[1]
    t = np.arange(len(target)) % 2
    converted = (target > np.median(target)).astype(int)
    return np.column_stack([t, t * converted * (np.arange(len(target)) % 3 > 0), converted])


def as_floats(x):
    """Integers of the checks are numbers, not ids, and their tables have numbers only."""
    values = x.to_numpy() if isinstance(x, pd.DataFrame) else x
    dtype = getattr(values, "dtype", None)
    return values.astype(np.float64) if dtype is not None and dtype.kind in "iu" else values


class AdaptedMoments(Adapted, cf.CFOR):
    pass


class AdaptedNetworks(Adapted, cf.CFMTL):
    pass


class WithoutStrata(Adapted):
    @property
    def predict_proba(self):
        raise AttributeError("it identifies no strata")


class AdaptedEffects(WithoutStrata, cf.XLearner):
    pass


class AdaptedEntireSpace(WithoutStrata, cf.ESCM2):
    pass


class AdaptedEffectNetworks(WithoutStrata, cf.DragonNet):
    pass


OWN_WORDS = "is refused by a ValueError in the words of the library: expected, found, what to do"
NOT_APPLICABLE = {
    "check_parameters_default_constructible": "configurations are frozen dataclasses",
    "check_dtype_object": "an array of objects is refused: a table says which columns are categories",
    "check_n_features_in_after_fitting": OWN_WORDS,
    "check_complex_data": OWN_WORDS,
    "check_estimators_empty_data_messages": OWN_WORDS,
    "check_fit2d_1sample": OWN_WORDS,
    "check_fit2d_predict1d": OWN_WORDS,
}
"""Checks of scikit-learn that the estimators do not pass, with the reason."""


@pytest.mark.parametrize(
    "model",
    [
        AdaptedMoments(outcome=LOGISTIC),
        AdaptedNetworks(config=SMALL_NETWORK),
        AdaptedNetworks(config=cf.BoostedConfig(n_fits=1)),
        AdaptedEffects(outcome=LOGISTIC, effect=LinearRegression()),
        AdaptedEntireSpace(config=SMALL_NETWORK, width=2),
        AdaptedEffectNetworks(config=SMALL_NETWORK, width=2),
    ],
    ids=["CF-OR", "CF-MTL by networks", "CF-MTL", "X-learner", "ESCM2", "DragonNet"],
)
def test_checks_of_scikit_learn(model):
    passed, failed = set(), {}
    for estimator, check in estimator_checks_generator(model):
        name = check.func.__name__
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check(estimator)
                passed.add(name)
            except SkipTest:
                pass
            except Exception as error:
                failed[name] = error
    defaults = [p.default for p in inspect.signature(type(model).__init__).parameters.values()]
    configured = any(dataclasses.is_dataclass(default) for default in defaults)
    expected = {n for n in NOT_APPLICABLE if configured or n != "check_parameters_default_constructible"}
    assert set(failed) == expected, failed
    assert len(passed) > 25


@pytest.mark.parametrize(
    "x",
    [np.ones((4, 3)), np.ones((4, 5)) + 1j, np.ones((0, 5)), np.ones(5), csr_array(np.ones((4, 5)))],
    ids=["features", "complex", "empty", "one row", "sparse"],
)
def test_what_is_refused_in_own_words_is_refused(study, x):
    model = cf.CFOR(outcome=LOGISTIC).fit(study.log)
    with pytest.raises(LogError, match="x: expected"):
        model.predict(x)


LIBRARY = [kind for key, kind in ESTIMATORS.items() if kind.method and "." not in key]


@pytest.mark.parametrize("kind", LIBRARY, ids=lambda kind: kind.__name__)
def test_parameters_are_kept_as_given(kind):
    model = kind(seed=3)
    assert clone(model).get_params(deep=False) == model.get_params(deep=False)
    assert list(inspect.signature(kind).parameters) == [*inspect.signature(kind.__init__).parameters][1:]
    assert set(model.get_params(deep=False)) == set(inspect.signature(kind).parameters)
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(sead=1)

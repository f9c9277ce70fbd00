"""X-learner: the effect of a confounded world, and agreement with econml's."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import LinearRegression, LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError


class Probability(RegressorMixin, BaseEstimator):
    """Regressor that predicts the probability of a logistic regression."""

    def fit(self, x, y):
        self.model_ = LogisticRegression(C=3.0).fit(x, y)
        return self

    def predict(self, x):
        return self.model_.predict_proba(x)[:, 1]


def test_the_effect_of_a_confounded_world_is_found(world, finds_the_effect):
    finds_the_effect(cf.XLearner().fit(world.log), world)


@pytest.mark.filterwarnings("ignore")
def test_econml_finds_the_same_with_the_same_learners(world):
    metalearners = pytest.importorskip("econml.metalearners", reason="pip install -e '.[baselines]'")
    x, log = world.log.x, world.log
    ours = cf.XLearner(outcome=LogisticRegression(C=3.0), effect=LinearRegression()).fit(log)
    theirs = metalearners.XLearner(
        models=Probability(), cate_models=LinearRegression(), propensity_model=LogisticRegression(C=3.0)
    ).fit(log.y.astype(float), log.t, X=x)
    np.testing.assert_allclose(ours.predict_cate(world.new), theirs.effect(world.new), atol=1e-9)


def test_formula_by_hand(world):
    """The regressions of imputed effects, each on its own arm, weighted by the propensity."""
    log, logistic = world.log, LogisticRegression(C=3.0)
    model = cf.XLearner(outcome=logistic, effect=LinearRegression(), propensity=LogisticRegression(C=0.1))
    x, y, treated = log.x, log.y, log.t == 1
    mean = [clone(logistic).fit(x[log.t == arm], y[log.t == arm]) for arm in (0, 1)]
    tau1 = LinearRegression().fit(x[treated], y[treated] - mean[0].predict_proba(x[treated])[:, 1])
    tau0 = LinearRegression().fit(x[~treated], mean[1].predict_proba(x[~treated])[:, 1] - y[~treated])
    e = LogisticRegression(C=0.1).fit(x, log.t).predict_proba(world.new)[:, 1]
    expected = e * tau0.predict(world.new) + (1 - e) * tau1.predict(world.new)
    fitted = model.fit(log)
    np.testing.assert_allclose(fitted.predict_cate(world.new), expected, atol=1e-12)
    paid = clone(logistic).fit(x[treated], log.c[treated]).predict_proba(world.new)[:, 1]
    np.testing.assert_allclose(
        fitted.predict_reward(world.new, "cash", 0.4), 1.4 * expected - 0.4 * paid, atol=1e-12
    )
    means = np.where(log.t == 1, mean[1].predict_proba(x)[:, 1], mean[0].predict_proba(x)[:, 1])
    likelihood = np.log(np.where(y == 1, means, 1 - means)).mean()
    assert fitted.score(log) == pytest.approx(likelihood, abs=1e-9)


def test_learners_are_checked(world):
    for wrong in ({"outcome": LinearRegression()}, {"effect": LogisticRegression()}, {"propensity": 3}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: expected"):
            cf.XLearner(**wrong).fit(world.log)

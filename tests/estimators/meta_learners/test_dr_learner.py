"""DR-learner: the regression of scores that it is, and the effect that it recovers from a confounded log."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.nuisances.moments import MOMENTS

LOGISTIC = LogisticRegression(max_iter=500)


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(6000, seed=4)


@pytest.fixture(scope="module")
def fitted(study):
    return cf.DRLearner(outcome=LOGISTIC, effect=LinearRegression()).fit(study.log)


def test_it_is_the_regression_of_doubly_robust_scores(study, fitted):
    """With the log's known propensity and the same folds, ordinary least squares by hand."""
    log = study.log
    made = cf.crossfit(log, outcome=LOGISTIC, folds=3)
    scores = cf.unit_scores(log, made, clip=0.0).by_moment()
    design = np.column_stack([np.ones(len(log)), log.x])

    def line(score):
        return design @ np.linalg.lstsq(design, score, rcond=None)[0]

    effect = line(scores["converted_treated"] - scores["converted_untreated"])
    np.testing.assert_allclose(fitted.predict_cate(log), effect.clip(-1, 1), atol=1e-9)
    for scenario, paid in (("coupon", "collected_and_converted_treated"), ("cash", "collected_treated")):
        expected = 1.3 * effect.clip(-1, 1) - 0.3 * line(scores[paid]).clip(0, 1)
        np.testing.assert_allclose(fitted.predict_reward(log, scenario, 0.3), expected, atol=1e-9)


def test_it_finds_the_effect_of_a_confounded_log(study, fitted):
    """The mean effect within three errors, and its shape."""
    truth = study.strata_probability[:, 3]
    found = fitted.predict_cate(study.log)
    score = cf.unit_scores(study.log, study.true_nuisances).by_moment()
    spread = score["converted_treated"] - score["converted_untreated"]
    assert abs(found.mean() - truth.mean()) < 3 * spread.std() / np.sqrt(len(truth))
    assert np.square(found - truth).mean() < 0.3 * truth.var()


def test_what_it_does_not_have_is_refused(study, fitted):
    with pytest.raises(InputError, match="score: expected a learner that predicts the mean of each arm"):
        fitted.score(study.log)
    assert set(fitted.effects_) == {"cate", *list(MOMENTS)[2:]}
    for wrong in ({"folds": 1}, {"outcome": LinearRegression()}, {"effect": LOGISTIC}, {"propensity": 0.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            cf.DRLearner(**wrong).fit(study.log)


def test_it_is_saved_and_loaded(study, fitted, tmp_path):
    cf.save(fitted, tmp_path / "model.safetensors")
    loaded = cf.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        loaded.predict_reward(study.log, "cash", 0.2), fitted.predict_reward(study.log, "cash", 0.2)
    )

"""The automatic choice: what it recommends, that its value is honest, and that poor logs break nothing."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import cfmtl_lib as cf
from cfmtl_lib.datasets.simulation_features import means_of
from cfmtl_lib.deployment.candidate_fits import default_candidates
from cfmtl_lib.errors import InputError, TrustWarning
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.experiments.evaluation.learner_worlds import LEARNER_WORLDS, RARE
from cfmtl_lib.experiments.evaluation.worlds import draw_log
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.value.estimates import mean_estimate

LINES = cf.CFOR(outcome=LogisticRegression(max_iter=500))
CANDIDATES = {"lines": LINES, "response": cf.Naive(outcome=LogisticRegression(max_iter=500))}


class Refuses(LogEstimator):
    """A candidate that can fit no log."""

    def __init__(self, *, seed=0):
        self.seed = seed

    def fit(self, x, y=None):
        raise InputError("log", expected="another log", found="this one")


def drawn(world, n, seed):
    """A log of a world with known propensity, its true nuisances and its true rewards."""
    one = draw_log(replace(LEARNER_WORLDS[world], known=True), [seed], n)
    true = cf.LogNuisances.from_means(
        one.log.propensity, means_of(one.strata_probability), propensity_is_known=True
    )
    return one.log, true, cf.expected_reward(one.strata_probability, "coupon", 0.4)


@pytest.fixture(scope="module")
def study():
    return cf.simulated_features(3000, seed=5)


@pytest.fixture(scope="module")
def auto(study):
    made = cf.AutoPolicy(cost=0.4, candidates={**CANDIDATES, "refuses": Refuses()})
    return made.fit(study.log, nuisances=study.true_nuisances)


def test_the_table_compares_every_candidate_with_the_chosen_one(study, auto):
    table = auto.table_
    assert list(table.index) == ["refuses", "lines", "response", "stack", "at random", "nobody"]
    assert auto.chosen_ == "stack" and not auto.recommends_nobody_
    assert table.loc["response", "behind"] > 2 * table.loc["response", "behind_error"]
    assert table.loc["nobody", "behind"] == table.loc[auto.chosen_, "value"]
    assert "expected another log" in table.loc["refuses", "note"] and np.isnan(table.loc["refuses", "value"])
    assert table.loc["lines", "log_likelihood"] > -1.3 and np.isnan(table.loc["response", "log_likelihood"])
    assert list(auto.models_) == ["lines"] and len(auto.models_["lines"]) == 5
    text = auto.summary()
    assert text.startswith("Recommended: stack, because its policy earns 0.")
    assert max(map(len, text.splitlines())) <= 74
    assert "against response: +0.0" in text and "refuses: not compared (log: expected another log" in text


def test_outcomes_of_a_fold_do_not_change_a_models_order_there(study):
    """Neither its fit nor, as that is monotone, its calibration: only decisions in other folds change."""
    fold = cf.nuisances.cross_fitting.fold_of_rows(study.log, 5, 0)
    log, here = study.log, fold == 2
    flipped = cf.IncentiveLog(
        log.x, log.t, np.where(here, log.t * (1 - log.c), log.c), np.where(here, 1 - log.y, log.y)
    )
    models = {"lines": LINES}
    again = cf.AutoPolicy(cost=0.4, candidates=models, folds=5)
    first = clone(again).fit(log, nuisances=study.true_nuisances)
    # The folds are drawn by the cells; give the flipped log those of the first.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cfmtl_lib.deployment.auto_policy.fold_of_rows", lambda *_: fold)
        second = again.fit(flipped, nuisances=study.true_nuisances)
    np.testing.assert_array_equal(second.out_of_fold_policy_[here], first.out_of_fold_policy_[here])
    assert (second.out_of_fold_policy_[~here] != first.out_of_fold_policy_[~here]).any()


def test_the_value_is_that_of_the_policy_on_average_over_logs():
    errors, spread = [], []
    for seed in range(6):
        log, true, reward = drawn("nonlinear", 1200, seed)
        auto = cf.AutoPolicy(cost=0.4, candidates=CANDIDATES, folds=3).fit(log, nuisances=true)
        errors.append(auto.value_.value - float((auto.out_of_fold_policy_ * reward).mean()))
        spread.append(auto.value_.standard_error)
    assert abs(np.mean(errors)) < 3 * np.linalg.norm(spread) / len(spread)


@pytest.mark.parametrize("world", RARE)
def test_in_rare_worlds_it_loses_nothing_against_nobody(world):
    """Where its candidates would spend on most rows, it treats hardly anybody."""
    earned, plain = [], []
    for seed in range(5):
        log, true, _ = drawn(world, 2000, seed)
        later, _, reward = drawn(world, 4000, 1000 + seed)
        auto = cf.AutoPolicy(cost=0.4, candidates=CANDIDATES, folds=3).fit(log, nuisances=true)
        earned.append(float((auto.policy(later.x) * reward).mean()))
        raw = LINES.fit(log).predict_reward(later.x, "coupon", 0.4)
        plain.append(float((cf.allocate(raw, 0.4) * reward).mean()))
        assert auto.recommends_nobody_ == (auto.value_.value <= auto.value_.standard_error)
        assert not auto.recommends_nobody_ or not auto.policy(later.x).any()
    error = np.std(earned, ddof=1) / np.sqrt(len(earned))
    assert np.mean(earned) >= -2 * error
    assert np.mean(plain) < np.mean(earned)


@pytest.mark.parametrize("world", ["rare coupon buyers", "tree-like"])
def test_a_predicted_reward_above_zero_means_it(world):
    """Mean true score in cash of the rows with a positive reward: above 0 once calibrated, not before."""
    kept, before = [], []
    for seed in range(3):
        log, true, _ = drawn(world, 2000, seed)
        scores = cf.unit_scores(log, true).reward("cash", 0.4)
        auto = cf.AutoPolicy(scenario="cash", cost=0.4, candidates={"lines": LINES}, folds=3)
        auto.fit(log, nuisances=true)
        kept.append(scores[auto.out_of_fold_reward_ > 0])
        first, second = log.split(0.5, seed=seed)
        raw = LINES.fit(first).predict_reward(second.x, "cash", 0.4)
        e = second.propensity
        net = 1.4 * second.y * (second.t / e - (1 - second.t) / (1 - e)) - 0.4 * second.c * second.t / e
        before.append(net[raw > 0])
    kept, before = np.concatenate(kept), np.concatenate(before)
    if world == "tree-like":
        assert kept.mean() > 2 * kept.std() / np.sqrt(len(kept))
    else:
        assert before.mean() < -2 * before.std() / np.sqrt(len(before)) and len(kept) < 0.02 * len(before)


def test_clusters_stay_together_and_count_once(study):
    log, n = study.log, 600
    pick = np.tile(np.arange(n // 3), 3)
    rows = log.take(pick)
    true = study.true_nuisances
    part = cf.LogNuisances.from_means(
        true.propensity[pick], {k: v[pick] for k, v in true.means().items()}, propensity_is_known=True
    )
    clustered = cf.IncentiveLog(rows.x, rows.t, rows.c, rows.y, cluster=pick)
    auto = cf.AutoPolicy(cost=0.4, candidates={"lines": LINES}, folds=3).fit(clustered, nuisances=part)
    assert auto.value_.n_clusters == n // 3
    earned = auto.out_of_fold_policy_ * cf.unit_scores(clustered, part).reward("coupon", 0.4)
    assert auto.value_.standard_error == mean_estimate(earned, clusters=pick).standard_error
    assert auto.value_.standard_error > 1.2 * mean_estimate(earned).standard_error
    reward = auto.out_of_fold_reward_.reshape(3, -1)
    np.testing.assert_allclose(reward[0], reward[1])  # copies are in one fold


def test_it_is_saved_and_loaded_with_what_it_says(tmp_path):
    log, true, _ = drawn("nonlinear", 2500, 1)
    trees = cf.CFOR(outcome=DecisionTreeClassifier(max_depth=3, random_state=0))
    auto = cf.AutoPolicy(cost=0.4, candidates={"lines": LINES, "a tree": trees}, folds=3)
    auto.fit(log, nuisances=true)
    assert auto.parts_ == ("lines", "a tree")  # not the order of the alphabet, which files have
    cf.save(auto, tmp_path / "model.safetensors")
    loaded = cf.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.predict_reward(log), auto.predict_reward(log))
    np.testing.assert_array_equal(loaded.policy(log.x), auto.policy(log.x))
    assert loaded.summary() == auto.summary() and loaded.value_ == auto.value_
    assert loaded.table_.equals(auto.table_)
    assert not hasattr(loaded, "out_of_fold_policy_")  # a number for each row of the log


def test_it_has_the_manners_of_scikit_learn(study, auto):
    assert clone(auto).get_params()["cost"] == 0.4
    np.testing.assert_array_equal(auto.predict(study.log.x), auto.predict_reward(study.log.x))
    np.testing.assert_array_equal(
        auto.predict_reward(study.log.x, "coupon", 0.4), auto.predict_reward(study.log.x)
    )
    other = cf.simulated_features(400, seed=6).log
    score = auto.score(other.x, np.column_stack([other.t, other.c, other.y]))
    assert score == pytest.approx(auto.value_.value, abs=0.1)
    with pytest.raises(NotFittedError):
        cf.AutoPolicy(cost=0.4).policy(study.log.x)
    with pytest.warns(TrustWarning, match="was learned on 100%"):
        cf.policy_value(auto.policy(study.log), study.log, study.true_nuisances, cost=0.4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scenario": "gift"},
        {"cost": -1.0},
        {"budget": 1.5},
        {"folds": 2},
        {"errors": -1},
        {"stack": "yes"},
        {"seed": None},
        {"progress": 1},
        {"candidates": {}},
        {"candidates": [LINES]},
        {"candidates": {"nobody": LINES}},
        {"candidates": {"lines": LogisticRegression()}},
        {"candidates": {"lines": cf.CFOR}},
    ],
    ids=str,
)
def test_bad_arguments_are_refused(study, wrong):
    given = {"cost": 0.4, "candidates": CANDIDATES} | wrong
    with pytest.raises(InputError, match=next(iter(wrong))):
        cf.AutoPolicy(**given).fit(study.log)


def test_questions_that_it_was_not_chosen_for_are_refused(study, auto):
    with pytest.raises(InputError, match="scenario: expected 'coupon', for which the policy was chosen"):
        auto.predict_reward(study.log, "cash", 0.4)
    with pytest.raises(InputError, match=r"cost: expected 0\.4, for which"):
        auto.predict_reward(study.log, "coupon", 0.5)


def rows(n, **changes):
    """A log of n rows, half of them treated, with columns changed."""
    k, rng = np.arange(n), np.random.default_rng(0)
    columns = {"t": k % 2, "c": (k % 2) * (k % 3 > 0), "y": k % 5 == 0} | changes
    return cf.IncentiveLog(rng.normal(size=(n, 2)), **columns)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (rows(12), "only 6 treated rows: too few to learn a policy on 5 folds"),
        (rows(200, y=np.zeros(200, dtype=int)), "only 0 of 200 rows differ"),
        (rows(200, cluster=np.arange(200) // 40), "only 5 clusters: too few"),
    ],
    ids=["tiny", "no conversions", "few clusters"],
)
def test_of_too_little_nothing_is_learned_and_the_reason_is_told(log, reason):
    auto = cf.AutoPolicy(cost=0.4).fit(log)
    assert auto.recommends_nobody_ and auto.chosen_ == "nobody" and auto.reason_.startswith(reason)
    assert not auto.policy(log.x).any() and auto.value_.value == 0 and reason in str(auto.value_)
    assert set(auto.table_.index) == {*default_candidates(log), "nobody"} and reason in auto.summary()


@pytest.mark.parametrize("arm", [0, 1])
def test_an_arm_without_conversions_breaks_nothing(arm):
    k = np.arange(400)
    log = rows(400, y=(k % 2 != arm) & (k % 3 == 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        auto = cf.AutoPolicy(cost=0.4, candidates=CANDIDATES, folds=3).fit(log)
    assert auto.recommends_nobody_ == (arm == 1)  # else all conversions follow treatment
    assert "differ in their outcome" in str(auto.value_) or arm == 1


@pytest.mark.parametrize(("cost", "budget"), [(0.0, 1.0), (0.4, 0.0), (5.0, 0.4)])
def test_free_and_dear_incentives(study, cost, budget):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cost of five conversions
        auto = cf.AutoPolicy(cost=cost, budget=budget, candidates={"lines": LINES}, folds=3)
        auto.fit(study.log, nuisances=study.true_nuisances)
        share = auto.policy(study.log.x).mean()
    assert share <= budget and auto.recommends_nobody_ == (budget == 0 or cost == 5)
    assert share > 0.9 or cost > 0


def test_pairs_and_tables_have_candidates_of_their_own():
    pairs = cf.simulated(n_users=40, n_items=30, n_pairs=600).train
    assert "CF-IPS" in default_candidates(pairs) and "CF-OR, logistic" not in default_candidates(pairs)
    small = FitConfig(embedding_k=2, batch_size=256, learning_rate=0.05, tolerance=0.1, patience=1)
    made = cf.PairClassifier(config=small, pair_space=pairs.pair_space)
    auto = cf.AutoPolicy(cost=0.4, candidates={"CF-OR": cf.CFOR(config=small)}, folds=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        auto.fit(pairs, nuisances=cf.crossfit(pairs, outcome=made, propensity=made, folds=2))
    assert auto.policy(pairs.x).shape == (len(pairs),)
    table = cf.simulated_campaign(400, seed=3)
    found = cf.AutoPolicy(cost=0.4, candidates={"lines": LINES}, folds=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        found.fit(table.log(known_propensity=True))
    np.testing.assert_array_equal(found.policy(table.table), found.policy(table.log()))

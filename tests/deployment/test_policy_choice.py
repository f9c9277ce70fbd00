"""Calibration of rewards and choice between policies, on scores made for it."""

import numpy as np
import pytest
from scipy.stats import linregress

from cfmtl_lib.deployment.policy_choice import (
    STACK,
    HeldOutRewards,
    choose,
    earned_by,
    options_of,
    policy_of_choice,
)
from cfmtl_lib.deployment.reward_calibration import calibrate_rewards
from cfmtl_lib.policy.allocation import allocate

N = 900
FOLD = np.arange(N) % 3


def held_out(predicted, scores):
    return HeldOutRewards(predicted, scores, FOLD, 0.4)


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(3)
    reward = rng.normal(-0.1, 0.3, N)
    return reward, reward + rng.normal(0, 0.5, N), rng


def test_one_prediction_is_the_regression_line_shrunk_by_its_error(drawn):
    reward, scores, _ = drawn
    f = 3 * reward + 5
    line = linregress(f, scores)
    residual = scores - line.intercept - line.slope * f
    centred = f - f.mean()
    error = np.sqrt(np.square(centred * residual).sum()) / np.square(centred).sum()
    fitted = calibrate_rewards(f[:, None], scores)
    assert fitted.mean == pytest.approx(scores.mean())
    assert fitted.weights[0] == pytest.approx(line.slope * (1 - (error / line.slope) ** 2))
    assert fitted.predict(f[:, None]).mean() == pytest.approx(scores.mean())


def test_what_says_nothing_or_the_contrary_gets_no_weight(drawn):
    reward, scores, rng = drawn
    columns = np.column_stack([reward, -reward, np.full(N, 0.1), np.full(N, 1e-300)])
    weights = calibrate_rewards(columns, scores).weights
    assert weights[0] > 0.5 and (weights[1:] == 0).all()
    noise = np.mean([calibrate_rewards(rng.normal(size=(N, 1)), scores).weights[0] > 0 for _ in range(200)])
    assert noise < 0.3  # a slope above its own error, by chance


def test_copies_in_a_cluster_count_once(drawn):
    reward, scores, _ = drawn
    once = calibrate_rewards(0.1 * reward[:60, None], scores[:60])
    twice = calibrate_rewards(
        np.repeat(0.1 * reward[:60, None], 4, axis=0),
        np.repeat(scores[:60], 4),
        member=np.repeat(np.arange(60), 4),
    )
    without = calibrate_rewards(np.repeat(0.1 * reward[:60, None], 4, axis=0), np.repeat(scores[:60], 4))
    assert twice.weights[0] == pytest.approx(once.weights[0])
    assert without.weights[0] > once.weights[0]


def test_the_policy_of_a_fold_is_calibrated_by_the_other_folds(drawn):
    reward, scores, _ = drawn
    given = held_out({"a": reward}, scores)
    treat = given.policy(("a",))
    for k in range(3):
        inside, outside = k == FOLD, k != FOLD
        by_hand = calibrate_rewards(reward[outside, None], scores[outside]).predict(reward[inside, None])
        np.testing.assert_array_equal(treat[inside], allocate(by_hand, 0.4))
    changed = held_out({"a": reward}, np.where(FOLD == 0, -scores, scores))
    np.testing.assert_array_equal(changed.policy(("a",))[FOLD == 0], treat[FOLD == 0])


def test_the_stack_is_chosen_unless_one_leads_by_two_errors(drawn):
    reward, _, rng = drawn
    noise = rng.normal(size=N)
    given = held_out({"good": reward, "noise": noise}, reward)
    assert choose(given, {"good": ("good",), "noise": ("noise",), STACK: ("noise",)}) == "good"
    assert choose(given, {"good": ("good",), "noise": ("noise",), STACK: ("good",)}) == STACK
    assert choose(given, {"noise": ("noise",), STACK: ("good",)}) == STACK
    # Leads of less than two errors: the rewards differ in a few rows only.
    almost = reward.copy()
    almost[:3] = -almost[:3]
    near = held_out({"good": reward, "almost": almost}, reward)
    assert choose(near, {"good": ("good",), STACK: ("almost",)}) == STACK


def test_without_a_stack_the_largest_is_chosen_and_of_equal_ones_the_simplest(drawn):
    reward, _, rng = drawn
    given = held_out({"worse": rng.normal(size=N), "good": reward, "copy": 2 * reward + 1}, reward)
    assert choose(given, options_of(["worse", "good", "copy"], stack=False)) == "good"
    assert choose(given, options_of(["copy", "good"], stack=False)) == "copy"
    assert list(options_of(["one"], stack=True)) == ["one"]


def test_values_are_means_of_scores_and_differences_are_paired(drawn):
    reward, scores, _ = drawn
    given = held_out({"a": reward, "b": -reward}, scores)
    rows = earned_by(given, options_of(["a", "b"], stack=False), "a")
    treat = given.policy(("a",))
    assert rows["a"]["value"] == pytest.approx((treat * scores).mean())
    assert rows["a"]["behind"] == rows["a"]["behind_error"] == rows["nobody"]["value"] == 0
    assert rows["nobody"]["behind"] == rows["a"]["value"]
    assert rows["nobody"]["behind_error"] == pytest.approx(rows["a"]["standard_error"])
    assert rows["at random"]["value"] == pytest.approx(0.4 * scores.mean())


def test_the_value_of_the_procedure_does_not_profit_from_the_choice():
    """Twenty predictions that say nothing: the largest value is too high, that of the procedure is not."""
    largest, honest = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores = 0.05 + rng.normal(size=N)  # treating anybody is worth 0.05
        predicted = {str(k): rng.normal(size=N) for k in range(20)}
        given, options = held_out(predicted, scores), options_of(list(predicted), stack=False)
        rows, treat = earned_by(given, options, choose(given, options)), policy_of_choice(given, options)
        for values, found, policy in (
            (largest, max(row["value"] for row in rows.values()), given.policy((choose(given, options),))),
            (honest, (treat * scores).mean(), treat),
        ):
            values.append(found - 0.05 * policy.mean())
    error = np.std(honest) / np.sqrt(len(honest))
    assert abs(np.mean(honest)) < 3 * error
    assert np.mean(largest) > 6 * error

"""World with a smooth effect and confounded treatment, where learners of effects must find the truth."""

from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import expit

import cfmtl_lib as cf
from cfmtl_lib.strata import draw_strata, observe


class EffectWorld(NamedTuple):
    log: cf.IncentiveLog
    new: np.ndarray
    new_strata: np.ndarray
    average: float
    standard_error: float  # of an efficient estimate of the average effect
    difference: float  # of the means of the two arms


def strata_of(x):
    """Strata in the order of STRATA: those that buy anyway grow with x0, coupon buyers with x1."""
    anyway, buyers = 0.05 + 0.5 * expit(2.0 * x[:, 0]), 0.4 * expit(2.5 * x[:, 1])
    rest = 1 - anyway - buyers
    return np.stack([0.7 * rest, 0.3 * anyway, 0.3 * rest, buyers, 0.7 * anyway], axis=1)


def effect_world(n, seed, n_new=2000):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + n_new, 3))
    p, e = strata_of(x), expit(1.2 * x[:, 0])
    t = (rng.random(n + n_new) < e).astype(np.int8)
    c, y = observe(draw_strata(p, rng), t)
    mu0 = p[:, 1] + p[:, 4]
    mu1 = mu0 + p[:, 3]
    score = mu1 - mu0 + t * (y - mu1) / e - (1 - t) * (y - mu0) / (1 - e)
    log = cf.IncentiveLog(x[:n], t[:n], c[:n], y[:n])
    return EffectWorld(
        log,
        x[n:],
        p[n:],
        float(p[:n, 3].mean()),
        float(score[:n].std() / np.sqrt(n)),
        float(y[:n][t[:n] == 1].mean() - y[:n][t[:n] == 0].mean()),
    )


@pytest.fixture(scope="session")
def world():
    made = effect_world(4000, seed=0)
    assert made.difference - made.average > 5 * made.standard_error  # confounded
    return made


@pytest.fixture(scope="session")
def finds_the_effect():
    """Check of a fitted learner: average, ranking and size of the effect, and both payments."""

    def check(model, world, *, error=0.7):
        average = model.predict_cate(world.log.x).mean()
        assert abs(average - world.average) <= 3 * world.standard_error, (average, world)
        cate, truth = model.predict_cate(world.new), world.new_strata[:, 3]
        assert np.corrcoef(cate, truth)[0, 1] > 0.8
        assert np.sqrt(np.mean((cate - truth) ** 2)) < error * truth.std()
        for scenario in cf.SCENARIOS:
            reward = model.predict_reward(world.new, scenario, 0.4)
            expected = cf.expected_reward(world.new_strata, scenario, 0.4)
            assert np.corrcoef(reward, expected)[0, 1] > 0.8
            assert abs(reward.mean() - expected.mean()) < 0.05

    return check

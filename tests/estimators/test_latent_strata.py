"""Latent strata: what each assumption recovers, where it misleads, and the estimator's manners."""

import numpy as np
import pytest
from scipy.special import expit, softmax

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.estimators.latent_strata import fit_starts, latent_log_likelihood, split_rows
from cfmtl_lib.estimators.likelihood import cell_log_likelihood
from cfmtl_lib.experiments.methods import fit_methods
from cfmtl_lib.runtime.fit_cache import FitCache
from cfmtl_lib.strata import draw_strata, observe

QUICK = cf.LatentConfig(rank=2, epochs=2, steps=5)
CONTRASTS = np.array([[-1, -0.5], [-1, 1], [0.8, -1], [0.8, 0.2], [0.8, 1.2]])
N_USERS = N_ITEMS = 150


def world(selection, seed, n=20_000):
    """A log whose T has its own intercept in each stratum, with the probabilities of the strata."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(N_USERS * N_ITEMS, n, replace=False)
    x = np.column_stack([codes // N_ITEMS, codes % N_ITEMS])
    of_user, of_item = rng.standard_normal((N_USERS, 3)), rng.standard_normal((N_ITEMS, 3))
    score = of_user[x[:, 0]] + of_item[x[:, 1]]
    p = softmax(score[:, :2] @ CONTRASTS.T, axis=1)
    stratum = draw_strata(p, rng)
    t = (rng.random(n) < expit(np.array(selection)[stratum] + 0.5 * score[:, 2])).astype(np.int8)
    c, y = observe(stratum, t)
    log = cf.IncentiveLog(x=x, t=t, c=c, y=y, n_users=N_USERS, n_items=N_ITEMS)
    return log, p


def outcome(selection, seed):
    """For each assumption: error of the strata, policy's share of the best one, held-out likelihood."""
    log, truth = world(selection, seed)
    held = np.arange(len(log)) % 5 == 0
    kept, aside, truth = log.take(np.flatnonzero(~held)), log.take(np.flatnonzero(held)), truth[held]
    gain = cf.expected_reward(truth, "coupon", 0.4)

    def earned(p):
        return gain[cf.allocate(cf.expected_reward(p, "coupon", 0.4), budget=0.4)].sum()

    found = {}
    for assignment in ("given-x", "given-response"):
        model = cf.LatentStrata(
            assignment=assignment, config=cf.LatentConfig(rank=0), starts=1, device="cpu"
        ).fit(kept)
        p = model.predict_strata(aside)
        joint = latent_log_likelihood(model.networks_, aside)
        if assignment == "given-x":  # whose likelihood is of the cell given T
            e = model.predict_propensity(aside)
            joint = joint + np.log(np.where(aside.t == 1, e, 1 - e))
        found[assignment] = (
            np.sqrt(((p - truth) ** 2).mean()),
            earned(p) / earned(truth),
            joint.mean(),
            abs((p - truth).mean(axis=0)).max(),
        )
    return found


SEEDS = (0, 1, 2)


def test_given_response_recovers_strata_where_the_platform_foresaw_the_response():
    for seed in SEEDS:
        found = outcome((-1.0, -0.5, 0.5, 1.2, 1.2), seed)
        error, earned, _, share = found["given-response"]
        assert error < 0.75 * found["given-x"][0]
        assert share < 0.03 < found["given-x"][3]
        assert earned > 0.94


def test_both_recover_strata_where_the_assignment_is_ignorable():
    for seed in SEEDS:
        found = outcome((0.0, 0.0, 0.0, 0.0, 0.0), seed)
        assert all(error < 0.065 and share < 0.02 for error, _, _, share in found.values())


def test_given_response_misleads_where_the_platform_foresaw_conversions_and_likelihood_does_not_notice():
    """The negative example: the platform treated coupon buyers and passed over always buyers.

    Its held-out likelihood is the better one, its policy the worse: likelihood cannot choose assumptions.
    """
    for seed in SEEDS:
        found = outcome((-0.5, 0.5, -0.5, 1.5, -1.0), seed)
        (_, policy_x, likelihood_x, _), (_, policy, likelihood, share) = found.values()
        assert likelihood > likelihood_x + 0.002
        assert policy < policy_x - 0.03
        assert share > 0.03


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=40, n_items=40, n_pairs=1200)


def test_starts_are_averaged_and_seeds_repeat(study):
    model = cf.LatentStrata(config=QUICK, starts=3, seed=4, device="cpu", n_jobs=1).fit(study.train)
    beside = cf.LatentStrata(config=QUICK, starts=3, seed=4, device="cpu", n_jobs=2).fit(study.train)
    p = model.predict_strata(study.test.x)
    np.testing.assert_array_equal(beside.predict_strata(study.test.x), p)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    each = [network.predict("strata", study.test.x) for network in model.networks_]
    np.testing.assert_allclose(p, np.mean(each, axis=0), atol=1e-12)
    assert np.abs(each[0] - each[1]).max() > 1e-4
    assert list(model.histories_) == ["start 0", "start 1", "start 2"]
    e = model.predict_propensity(study.test.x)
    assert e.shape == (len(study.test),) and ((e > 0) & (e < 1)).all()
    other = cf.LatentStrata(config=QUICK, starts=1, seed=5, device="cpu").fit(study.train)
    assert np.abs(other.predict_strata(study.test.x) - each[0]).max() > 1e-4


def test_held_out_rows_choose_among_configs(study):
    """A prior that holds factors and scores at 0 has to lose; the estimator takes the same choice."""
    flat = cf.LatentConfig(rank=0, epochs=3, score_precision=1e6, assignment_precision=1e6)
    plain = cf.LatentConfig(rank=0, epochs=3)
    log = cf.simulated(n_users=40, n_items=40, n_pairs=1500, separation=3.0, additive=2.0).train
    choice = cf.choose_latent_config(log, [flat, plain], starts=1, device="cpu", seed=1)
    assert choice.config == plain
    assert choice.table["behind"].tolist()[1] == 0 and (choice.table["behind"] >= 0).all()
    model = cf.LatentStrata(config=[flat, plain], starts=1, device="cpu", seed=1).fit(log)
    assert model.config_ == plain
    assert model.held_out_ == choice.table["log_likelihood"].tolist()
    kept, aside = split_rows(log, seed=1)
    assert len(aside) == round(0.1 * len(log)) and len(kept) + len(aside) == len(log)
    options = {"starts": 1, "device": "cpu", "seed": 1, "n_jobs": 1, "progress": False}
    networks = [network for network, _ in fit_starts(kept, plain, "given-x", **options)]
    cells = cell_log_likelihood(networks[0].predict("strata", aside.x), aside)
    assert model.held_out_[1] == pytest.approx(cells.mean(), abs=1e-9)


def test_what_cannot_be_fitted_is_refused(study):
    with pytest.raises(LogError, match=r"expected user-item pairs.*CFMTL"):
        cf.LatentStrata().fit(cf.simulated_features(100).log)
    with pytest.raises(LogError, match="expected user-item pairs"):
        cf.choose_latent_config(cf.simulated_features(100).log)
    for wrong, message in (
        ({"assignment": "given-z"}, "assignment"),
        ({"starts": 0}, "starts"),
        ({"config": cf.FitConfig()}, "config: expected a LatentConfig"),
        ({"config": ()}, "config: expected a LatentConfig"),
        ({"n_jobs": 0}, "n_jobs"),
    ):
        with pytest.raises(InputError, match=message):
            cf.LatentStrata(**wrong).fit(study.train)


def test_a_cached_fit_is_used_again(study, tmp_path):
    """Under its name among the methods; the number of jobs is no part of the key."""
    first = fit_methods(study, ["latent strata"], device="cpu", cache=FitCache(tmp_path))["latent strata"]
    cache = FitCache(tmp_path)
    again = fit_methods(study, ["latent strata"], device="cpu", cache=cache)["latent strata"]
    assert len(list(tmp_path.iterdir())) == len(cache.used) == 1
    np.testing.assert_array_equal(again.predict_strata(study.test.x), first.predict_strata(study.test.x))


def test_small_logs_are_passed_over_more_often():
    log = cf.simulated(n_users=20, n_items=20, n_pairs=200).train
    model = cf.LatentStrata(starts=1, device="cpu").fit(log)
    assert model.config_ == cf.LatentConfig.for_rows(len(log)) != cf.LatentConfig()
    assert len(model.histories_["start 0"].loss) == 20

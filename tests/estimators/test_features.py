"""Estimators on features: every form of x, what becomes of missing values and categories, and accuracy."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import cfmtl_lib as cf
from cfmtl_lib.datasets.simulation_campaign import CAMPAIGN_FEATURES
from cfmtl_lib.datasets.simulation_features import POINTS, means_of, strata_probabilities
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.estimators.cells.backend import held_out_rows
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.feature_networks import N_KNOTS, FeatureScaler
from cfmtl_lib.nuisances.feature_nuisances import FeatureNuisances
from cfmtl_lib.nuisances.learners import MOST_LEVELS, adapt_learner, default_classifier

QUICK = cf.FeatureConfig(
    hidden=(16,),
    n_networks=1,
    fit=FitConfig(
        learning_rate=5e-3,
        batch_size=256,
        tolerance=0.0,
        patience=3,
        patience_resets=True,
        max_epochs=40,
        keep_last_batch=True,
        validation_share=0.2,
    ),
)
ESTIMATORS = {
    "Naive": cf.Naive,
    "OR": cf.OR,
    "IPS": cf.IPS,
    "DR": cf.DR,
    "OR-net": cf.ORNet,
    "DR-net": cf.DRNet,
    "CF-OR": cf.CFOR,
    "CF-IPS": cf.CFIPS,
    "CF-DR": cf.CFDR,
    "CF-MTL": lambda: cf.CFMTL(config=QUICK),
    "CF-MTL-v1": lambda: cf.CFMTLv1(config=QUICK),
    "CF-MTL-v1 frozen": lambda: cf.CFMTLv1(config=QUICK, frozen=True),
}


@pytest.fixture(scope="module")
def campaign():
    return cf.simulated_campaign(3000, seed=1)


@pytest.fixture(scope="module")
def log(campaign):
    return campaign.log()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_takes_tables_codes_and_logs_alike(name, campaign, log):
    model = ESTIMATORS[name]().fit(log)
    by_table = model.predict_reward(campaign.table, "coupon", 0.4)
    assert by_table.shape == (len(log),) and np.isfinite(by_table).all() and by_table.std() > 0.01
    np.testing.assert_array_equal(model.predict_reward(log, "coupon", 0.4), by_table)
    np.testing.assert_array_equal(model.predict_reward(log.x, "coupon", 0.4), by_table)
    backwards = model.predict_reward(campaign.table[::-1], "coupon", 0.4)[::-1]
    np.testing.assert_array_equal(backwards, by_table)
    if hasattr(model, "predict_strata"):
        p = model.predict_strata(campaign.table)
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-9)
        np.testing.assert_array_equal(model.predict_proba(campaign.table), p)


@pytest.mark.parametrize("name", ["OR", "CF-DR", "CF-MTL", "CF-MTL-v1"])
def test_pairs_with_features_are_one_x(name):
    rng = np.random.default_rng(0)
    study = cf.simulated(n_users=40, n_items=30, n_pairs=1000)
    train, numbers = study.train, rng.normal(size=(len(study.train), 2))
    both = cf.IncentiveLog((train.x, numbers), train.t, train.c, train.y, n_users=45)
    assert both.x.shape == (len(train), 4) and not both.is_pairs
    model = ESTIMATORS[name]().fit(both)
    reward = model.predict_reward((train.x, numbers), "coupon", 0.4)
    np.testing.assert_array_equal(model.predict_reward(both, "coupon", 0.4), reward)
    assert model.predict_reward(([[44, 0]], [[0.0, 0.0]]), "coupon", 0.4).shape == (1,)
    with pytest.raises(LogError, match=r"column 'user': expected codes 0 \(missing\) to 45"):
        model.predict_reward(([[45, 0]], [[0.0, 0.0]]), "coupon", 0.4)
    table = pd.DataFrame(
        {"user": train.x[:, 0], "item": train.x[:, 1], "a": numbers[:, 0], "b": numbers[:, 1]}
    )
    ids = cf.IncentiveLog.from_frame(
        table.assign(t=train.t, c=train.c, y=train.y),
        treatment="t",
        collected="c",
        converted="y",
        features=["user", "item", "a", "b"],
        categories=["user", "item"],
    )
    assert ids.encoder.is_category.tolist() == [True, True, False, False]
    alike = ESTIMATORS[name]().fit(ids).predict_reward(table, "coupon", 0.4)
    if name == "OR":  # the networks have a row for users 40-44 more
        np.testing.assert_allclose(alike, reward, atol=1e-12)


def test_same_data_as_pairs_and_as_one_hot_features_agree():
    """The additive logit of pairs is the logistic regression on one column a user and a column an item."""
    rng = np.random.default_rng(3)
    n, users, items = 60_000, 8, 6
    pairs = np.column_stack([rng.integers(0, users, n), rng.integers(0, items, n)])
    effect = [
        rng.normal(scale=0.5, size=(users, 5))[pairs[:, 0]],
        rng.normal(scale=0.5, size=(items, 5))[pairs[:, 1]],
    ]
    p = np.exp(effect[0] + effect[1])
    p /= p.sum(axis=1, keepdims=True)
    stratum = (rng.random(n)[:, None] > p.cumsum(axis=1)[:, :4]).sum(axis=1)
    t = rng.integers(0, 2, n)
    c, y = cf.strata.observe(stratum, t)
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(pairs)
    as_pairs, as_features = cf.IncentiveLog(pairs, t, c, y), cf.IncentiveLog(one_hot, t, c, y)

    networks = cf.CFOR(
        config=FitConfig(loss="cross_entropy", embedding_k=4, weight_decay=0.0, batch_size=n, tolerance=1e-7)
    )
    logistic = cf.CFOR(outcome=LogisticRegression(C=1e6, max_iter=2000))
    found, expected = (
        networks.fit(as_pairs).predict_strata(pairs),
        logistic.fit(as_features).predict_strata(one_hot),
    )
    assert np.abs(found - expected).max() < 0.02  # stopped, not converged to the last digit
    assert np.abs(found - expected).mean() < 0.002

    equal = cf.CellWeights(1, 1, 1, 1, 1, 1)
    joint = cf.CFMTL(
        weights=equal, config=FitConfig(embedding_k=4, weight_decay=0.0, batch_size=n, tolerance=1e-7)
    )
    by_pairs = joint.fit(as_pairs).predict_strata(pairs)
    for hidden, most in (((), 0.006), ((64, 64), 0.02)):  # the same functions, and many more
        same = cf.CFMTL(weights=equal, config=cf.FeatureConfig(hidden=hidden, n_networks=2))
        assert np.abs(by_pairs - same.fit(as_features).predict_strata(one_hot)).mean() < most
    assert np.abs(by_pairs - p).mean() < 0.012
    assert np.abs(found - p).mean() < 0.03  # means of additive strata are no additive logits


def test_dr_is_cross_fitted_and_known_propensities_are_used():
    study = cf.simulated_features(4000, seed=5)

    class Watching(HistGradientBoostingClassifier):
        rows: list = []  # noqa: RUF012 - shared by clones on purpose

        def fit(self, X, y):
            Watching.rows.append(len(X))
            return super().fit(X, y)

    model = cf.CFDR(outcome=Watching(max_iter=5), folds=4).fit(study.log)
    held_out = model.nuisances_.held_out()
    np.testing.assert_array_equal(held_out.propensity, study.log.propensity)
    assert held_out.propensity_is_known
    n_treated = int((study.log.t == 1).sum())
    assert max(Watching.rows) < n_treated  # every regression leaves a fold out
    assert len(Watching.rows) == 4 * 4

    unknown = cf.IncentiveLog(study.log.x, study.log.t, study.log.c, study.log.y)
    estimated = cf.CFDR(propensity_clip=(0.3, 0.6)).fit(unknown).nuisances_.held_out()
    assert not estimated.propensity_is_known
    assert (estimated.propensity.min(), estimated.propensity.max()) == (0.3, 0.6)


def test_dr_pseudo_outcomes_are_those_of_the_formula():
    study = cf.simulated_features(1000, seed=6)
    seen = {}

    class Keep(DummyRegressor):
        def fit(self, X, y):
            seen["target"] = np.array(y)
            return super().fit(X, y)

    log = study.log
    for family, mean in (("DR", 1.0), ("IPS", 0.0)):
        made = FeatureNuisances(
            log,
            outcome=DummyClassifier(),
            propensity=None,
            pseudo_outcome=Keep(),
            propensity_clip=(0.1, 0.9),
            folds=2,
            seed=0,
            progress=False,
        )
        made.moment(family, "collected_treated")
        m = mean * made.held_out().collected_treated
        np.testing.assert_allclose(
            seen["target"], m + (log.t == 1) / log.propensity * (log.c - m), rtol=0, atol=1e-12
        )
        made.moment(family, "converted_untreated")
        m = mean * made.held_out().converted_untreated
        np.testing.assert_allclose(
            seen["target"], m + (log.t == 0) / (1 - log.propensity) * (log.y - m), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("kind", [cf.CFOR, cf.CFDR])
def test_estimates_approach_the_truth(kind):
    """All 32 values of x, almost saturated trees: errors as large as those of 32 shares would be."""
    study = cf.simulated_features(40_000, seed=7)
    model = kind(outcome=HistGradientBoostingClassifier(max_iter=50, min_samples_leaf=5)).fit(study.log)
    truth = means_of(strata_probabilities())
    for name, values in truth.items():
        found = model.predict_moment(POINTS, name)
        rows = 40_000 / 32 * 0.3  # of the smaller arm
        error = np.sqrt(0.25 / rows)
        assert np.abs(found - values).max() < 4 * error
        assert np.abs(found - values).mean() < 1.2 * error


def test_learners_see_categories_as_categories(campaign, log):
    coded = [name in ("city", "channel") for name in CAMPAIGN_FEATURES]
    assert default_classifier(log).codes == tuple(k for k, is_code in enumerate(coded) if is_code)
    boosting = adapt_learner(HistGradientBoostingClassifier(), log)
    assert boosting.get_params()["categorical_features"] == [4, 5]
    logistic = adapt_learner(LogisticRegression(max_iter=500), log).fit(log.x, log.y)
    levels = logistic[0].transformers_[0][1].categories_
    assert [len(values) for values in levels] == [9, 4]  # with the missing one
    # A renaming of the levels changes their codes and nothing else.
    renamed = campaign.table.assign(
        city=campaign.table["city"].map({"Oslo": "Aa", "Bergen": "Zz"}).fillna(campaign.table["city"])
    )
    other = cf.IncentiveLog.from_frame(
        renamed,
        treatment="mailed",
        collected="redeemed",
        converted="bought",
        features=list(CAMPAIGN_FEATURES),
    )
    again = adapt_learner(LogisticRegression(max_iter=500), other).fit(other.x, other.y)
    np.testing.assert_allclose(again.predict_proba(other.x), logistic.predict_proba(log.x), atol=1e-3)


@pytest.mark.parametrize("n", [1500, 12_000])
def test_boosting_has_the_smaller_log_loss_on_other_customers(n):
    past, later = cf.simulated_campaign(n, seed=3), cf.simulated_campaign(10_000, seed=4)
    log = past.log()
    x = log.encoder.encode(later.table)
    for target, name, rows in ((log.t, "mailed", log.t >= 0), (log.y, "bought", log.t == 1)):
        judged = (later.table["mailed"] == 1).to_numpy() | (name == "mailed")
        loss = [
            log_loss(
                later.table[name][judged],
                learner.fit(log.x[rows], target[rows]).predict_proba(x[judged])[:, 1],
            )
            for learner in (
                default_classifier(log),
                adapt_learner(HistGradientBoostingClassifier(random_state=0), log),
            )
        ]
        assert loss[0] < loss[1]


def test_categories_of_many_levels_get_their_means():
    rng = np.random.default_rng(0)
    n, levels = 20_000, MOST_LEVELS + 100
    shop = rng.integers(0, levels, n)
    rate = rng.uniform(0.1, 0.9, levels)[rng.permutation(levels)]
    t = rng.integers(0, 2, n)
    y = (rng.random(n) < rate[shop]).astype(int)
    log = cf.IncentiveLog.from_frame(
        pd.DataFrame({"shop": shop, "t": t, "c": 0, "y": y}),
        treatment="t",
        collected="c",
        converted="y",
        features=["shop"],
        categories=["shop"],
    )
    learner = default_classifier(log)
    assert learner.many == (0,) and learner.codes == ()
    found = learner.fit(log.x, y).predict_proba(log.x)[:, 1]
    assert np.corrcoef(found, rate[shop])[0, 1] > 0.9
    # As numbers their order says nothing, and boosting with its defaults finds less.
    as_numbers = HistGradientBoostingClassifier().fit(log.x, y).predict_proba(log.x)[:, 1]
    assert np.corrcoef(as_numbers, rate[shop])[0, 1] < np.corrcoef(found, rate[shop])[0, 1]


def test_ids_and_pipelines(log):
    pairs = cf.simulated(n_users=20, n_items=20, n_pairs=400).train
    with pytest.raises(InputError, match="LogisticRegression, which takes user and item ids for quantities"):
        cf.OR(outcome=LogisticRegression()).fit(pairs)
    own = make_pipeline(OneHotEncoder(), LogisticRegression())
    assert adapt_learner(own, log) is own
    assert cf.OR(outcome=own).fit(pairs).predict_reward(pairs.x, "coupon", 0.4).shape == (len(pairs),)
    by_network = cf.OR(outcome=cf.PairClassifier(config=FitConfig(embedding_k=4, tolerance=0.01)))
    assert np.isfinite(by_network.fit(pairs).predict_reward(pairs.x, "coupon", 0.4)).all()


def test_missing_numbers_have_a_flag_and_the_middle():
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0] * 40)
    table = pd.DataFrame({"a": values, "b": np.arange(200.0), "t": [0, 1] * 100, "c": 0, "y": 0})
    log = cf.IncentiveLog.from_frame(table, treatment="t", collected="c", converted="y", features=["a", "b"])
    scaler = FeatureScaler.learn(log)
    numbers, codes = scaler.split(log.x)
    assert numbers.shape == (200, 3) and codes.shape == (200, 0) and scaler.n_numbers == 3
    np.testing.assert_array_equal(numbers[:, 2], np.isnan(values))
    assert (numbers[np.isnan(values), 0] == 0).all()
    present = numbers[~np.isnan(values), 0]
    assert abs(present.mean()) < 1e-6 and abs(present.std() - 1) < 1e-6
    assert scaler.split(np.array([[1e9, -1e9]]))[0].tolist() == [
        [pytest.approx(scaler.scores[0, -1]), pytest.approx(scaler.scores[1, 0]), 0.0]
    ]


def test_normal_scores_do_not_depend_on_the_scale():
    rng = np.random.default_rng(0)
    amounts = rng.lognormal(3, 1, 5000)
    for transformed in (np.log(amounts), amounts**3):
        logs = [
            cf.IncentiveLog(column[:, None], [0, 1] * 2500, [0] * 5000, [0] * 5000)
            for column in (amounts, transformed)
        ]
        first, second = (FeatureScaler.learn(log).split(log.x)[0] for log in logs)
        assert np.abs(first - second).mean() < 0.01  # interpolation between N_KNOTS quantiles
    assert N_KNOTS > 100


def test_zeros_of_counts_share_one_score():
    counts = np.repeat([0.0, 1.0, 2.0], [700, 200, 100])
    log = cf.IncentiveLog(counts[:, None], [0, 1] * 500, [0] * 1000, [0] * 1000)
    scores = np.unique(FeatureScaler.learn(log).split(log.x)[0])
    assert len(scores) == 3
    # Means of the normal distribution over the three parts of the ranks, up to origin and unit.
    cuts = norm.ppf([0.7, 0.9])
    density = np.concatenate([[0.0], norm.pdf(cuts), [0.0]])
    means = (density[:-1] - density[1:]) / [0.7, 0.2, 0.1]
    found, expected = ((s[1] - s[0]) / (s[2] - s[0]) for s in (scores, means))
    assert found == pytest.approx(expected, abs=0.02)


def test_networks_stop_on_whole_clusters(campaign):
    table = campaign.table.assign(household=campaign.table["customer"] // 3)
    log = cf.IncentiveLog.from_frame(
        table,
        treatment="mailed",
        collected="redeemed",
        converted="bought",
        features=list(CAMPAIGN_FEATURES),
        cluster="household",
    )
    aside = [held_out_rows(log, 0.2, 0, network) for network in range(2)]
    assert not np.array_equal(*aside)
    for rows in aside:
        assert rows.mean() == pytest.approx(0.2, abs=0.01)
        assert not set(log.cluster[rows]) & set(log.cluster[~rows])
    assert held_out_rows(log, 0.0, 0, 0) is None
    first, second = log.split(0.5, seed=1)
    assert not set(first.cluster) & set(second.cluster) and len(first) + len(second) == len(log)


def test_a_log_of_another_encoder_is_refused(campaign, log):
    model = cf.CFOR().fit(log)
    north = campaign.table[campaign.table["city"].isin(["Tromsø", "Bodø"])]
    other = cf.IncentiveLog.from_frame(
        north, treatment="mailed", collected="redeemed", converted="bought", features=list(CAMPAIGN_FEATURES)
    )
    with pytest.raises(LogError, match="another encoder"):
        model.predict_strata(other)
    same = cf.IncentiveLog.from_frame(
        north,
        treatment="mailed",
        collected="redeemed",
        converted="bought",
        features=list(CAMPAIGN_FEATURES),
        encoder=log.encoder,
    )
    np.testing.assert_array_equal(model.predict_strata(same), model.predict_strata(north))
    with pytest.raises(LogError, match="expected the features"):
        cf.IncentiveLog.from_frame(
            north,
            treatment="mailed",
            collected="redeemed",
            converted="bought",
            features=["age"],
            encoder=log.encoder,
        )


@pytest.mark.parametrize(
    "x, message",
    [
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), "expected an array.*found a DataFrame"),
        ([[1.0, 2.0]], r"expected float features of shape \(n, 5\)"),
        ([[1.0, 2.0, np.nan, 1.0, 1.0]], "finite features"),
    ],
)
def test_x_of_another_kind_is_refused(x, message):
    model = cf.CFOR(outcome=LogisticRegression()).fit(cf.simulated_features(500).log)
    with pytest.raises(LogError, match=message):
        model.predict_strata(x)
    assert model.predict_strata(np.ones((1, 5), dtype=int)).shape == (1, 5)  # integers are numbers here


def test_the_campaign_is_what_its_docstring_says(campaign):
    assert campaign.propensity.min() >= 0.1 and campaign.propensity.max() <= 0.9
    np.testing.assert_allclose(campaign.strata_probability.sum(axis=1), 1)
    large = cf.simulated_campaign(40_000, seed=2)
    shares, error = large.strata_probability.mean(axis=0), np.sqrt(0.25 / 40_000)
    assert np.abs(np.bincount(large.stratum, minlength=5) / 40_000 - shares).max() < 3 * error
    assert abs(large.table["mailed"].mean() - large.propensity.mean()) < 3 * error
    assert abs(large.table["age"].isna().mean() - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 40_000)
    generous = cf.simulated_campaign(40_000, seed=2, generosity=3.0)
    odds = [s.strata_probability[:, 3] / s.strata_probability[:, 0] for s in (generous, large)]
    np.testing.assert_allclose(odds[0] / odds[1], 3.0)
    for wrong in ({"n": 10}, {"generosity": 0.0}, {"missing": 1.0}):
        with pytest.raises(InputError):
            cf.simulated_campaign(**{"n": 200, **wrong})


@pytest.mark.slow
def test_default_accuracy_on_the_simulated_campaign():
    """Strata closer to the truth than by logistic regressions, and a policy near that of the true ones."""
    study, later = cf.simulated_campaign(50_000, seed=0), cf.simulated_campaign(50_000, seed=1)
    truth = later.strata_probability
    error = {}
    for name, model in {
        "CF-OR": cf.CFOR(outcome=LogisticRegression(max_iter=1000)),
        "CF-MTL": cf.CFMTL(),
    }.items():
        error[name] = np.abs(model.fit(study.log()).predict_strata(later.table) - truth).mean()
    assert error["CF-MTL"] < 0.8 * error["CF-OR"]
    for scenario in cf.SCENARIOS:
        reward = cf.expected_reward(truth, scenario, 0.4)
        chosen = cf.allocate(model.predict_reward(later.table, scenario, 0.4), 0.4)
        assert reward[chosen].sum() > 0.95 * reward[cf.allocate(reward, 0.4)].sum()

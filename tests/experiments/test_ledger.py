"""Paper against code: each entry's behaviour is pinned, so that a change of it is noticed."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.datasets.construction import UPPER_LOWER, fit_construction, label_strata, sample_unobserved
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.experiments import methods, studies
from cfmtl_lib.experiments.methods import fit_methods
from cfmtl_lib.experiments.paper import reported, tables
from cfmtl_lib.experiments.paper.ledger import FIT_VARIANTS, _labelling, ledger
from cfmtl_lib.experiments.paper.ledger_formulas import (
    CELL_VARIANTS,
    cell_variant_strata,
    labelling_quality,
    largest_interaction,
    propensity_report,
    prose_cash_reward,
    rows_beyond_budget,
    rows_left_out,
    study_sizes,
)
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, minimise
from cfmtl_lib.nuisances.moments import FAMILIES, MOMENTS
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances
from cfmtl_lib.policy import treatable
from cfmtl_lib.policy.rewards import stratum_rewards
from cfmtl_lib.runtime.fit_cache import FitCache
from cfmtl_lib.runtime.provenance import load_results
from cfmtl_lib.strata import POTENTIAL_OUTCOMES

SMALL = cf.FitConfig(embedding_k=4, tolerance=1e-2, batch_size=200)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=40, n_items=30, n_pairs=900)


# 1. Two labelling rules


def test_the_rules_differ_in_both_halves_and_the_default_is_the_code():
    assert UPPER_LOWER["text"] == {kind: pair[::-1] for kind, pair in UPPER_LOWER["code"].items()}
    scores, outcome = np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 1, 1])
    strata = {rule: label_strata(scores, outcome, np.array([0.7, 0.3]), rule) for rule in UPPER_LOWER}
    assert strata["code"].tolist() == [3, 3, 4, 4, 0, 1]
    assert strata["text"].tolist() == [4, 4, 3, 3, 1, 0]
    assert cf.simulated(n_users=40, n_items=30, n_pairs=900).labelling == "code"


def test_high_affinity_pairs_are_treated_more_and_the_rule_says_which_buyers_they_are():
    for rule, ahead, behind in (("code", 3, 4), ("text", 4, 3)):
        truth = cf.simulated(rule, n_users=100, n_items=100, n_pairs=8000).test
        e = [truth.propensity[truth.stratum == s] for s in (ahead, behind)]
        difference = e[0].mean() - e[1].mean()
        se = math.sqrt(sum(v.var() / len(v) for v in e))
        assert difference > 3 * se


# 2. The row CF-MTL-v1 stands on other data


def test_the_lead_of_v1_is_split_in_two_ways_that_add_up():
    rng = np.random.default_rng(0)
    rows = [
        {"labelling": "code", "construction": c, "scenario": "coupon", "method": m, "seed": s,
         "reward": float(rng.normal(100 * (c == "document") + 10 * (m == "CF-MTL-v1"), 3))}
        for c in ("authors", "document") for m in ("CF-MTL", "CF-MTL-v1", "OR") for s in range(6)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    found = reported.lead_of_v1(table).loc[("code", "coupon")]
    for data, method in (
        ("data (CF-MTL on both)", "method (on document)"),
        ("data (v1 on both)", "method (on authors)"),
    ):
        assert found.loc[data, "mean"] + found.loc[method, "mean"] == pytest.approx(found.loc["lead", "mean"])
    wide = table.pivot(index="seed", columns=["method", "construction"], values="reward")
    lead = wide["CF-MTL-v1", "document"] - wide["CF-MTL", "authors"]
    assert found.loc["lead", "se"] == pytest.approx(lead.std(ddof=1) / math.sqrt(6))
    assert found["seeds"].eq(6).all()
    assert (reported.printed_from("CF-MTL-v1"), reported.printed_from("OR")) == ("document", "authors")


def test_paired_differences_are_of_the_same_studies():
    rows = [
        {"labelling": "code", "construction": "authors", "scenario": "cash", "method": m, "seed": s,
         "reward": 1000.0 * s + shift}
        for s, shifts in enumerate([(0, 1), (0, 3), (0, -1)])
        for m, shift in zip(("OR", "CF-OR"), shifts, strict=True)
    ]  # fmt: skip
    (row,) = reported.paired_differences(pd.DataFrame(rows), {"CF-OR": "OR"}).itertuples()
    assert row.Index == ("code", "authors", "cash", "CF-OR")
    assert (row.baseline, row.difference, row.wins, row.seeds) == ("OR", 1.0, 2, 3)
    assert row.se == pytest.approx(2 / math.sqrt(3))


# 3. "Frozen" models that are not frozen


@pytest.mark.parametrize("frozen", [False, True])
def test_the_first_stage_moves_unless_it_is_frozen(study, frozen):
    model = cf.CFMTLv1(
        config=SMALL, pretraining_propensity=SMALL, pretraining_outcome=SMALL, device="cpu", frozen=frozen
    )
    first = model.pretrain(study.train)
    network = model.fit(study.train, pretrained=first).network_
    for before, after in (
        (first.outcome.user, network.strata.user),
        (first.outcome.item, network.strata.item),
        *zip(first.propensity.parameters(), network.propensity.parameters(), strict=True),
    ):
        assert torch.equal(before, after) is frozen
    assert not cf.CFMTLv1().frozen


# 4. The cash reward


def test_the_two_cash_formulas_charge_different_strata():
    text, table1 = prose_cash_reward(np.eye(5), 0.4), stratum_rewards("cash", 0.4)
    np.testing.assert_allclose(text, [0, 0, 0, 0.6, -0.4])
    np.testing.assert_allclose(table1, [0, 0, -0.4, 1, -0.4])


def test_the_printed_cash_rows_follow_table_1():
    rows = reported.reported_table4().query("scenario == 'cash'")
    off = (rows["positive"] - 0.4 * rows["negative"] - rows["reward"]).abs()
    assert (off <= 1 + 1e-9).all()
    assert not ((0.6 * rows["positive"] - 0.4 * rows["negative"] - rows["reward"]).abs() <= 1).any()


# 5 and 6. Product against joint; whose take-up


@pytest.fixture(scope="module")
def moments(study):
    models = fit_methods(study, ["OR-net", "IPS-net", "DR-net"], device="cpu")
    return {
        (family, name): models[f"{family}-net"].predict_moment(study.test.x, name)
        for family in FAMILIES
        for name in MOMENTS
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_cell_variants_are_the_estimators_of_the_library(study, moments, family):
    kind = {"OR": cf.CFOR, "IPS": cf.CFIPS, "DR": cf.CFDR}[family]
    for variant, form in (("joint", "joint"), ("product, take-up of OR", "product")):
        p = kind(device="cpu", cell_form=form).fit(study.train).predict_strata(study.test.x)
        np.testing.assert_allclose(cell_variant_strata(moments, family, variant), p, atol=1e-12)
    own = cell_variant_strata(moments, family, "product, own take-up")
    theirs = cell_variant_strata(moments, family, "product, take-up of OR")
    assert np.array_equal(own, theirs) is (family == "OR")
    assert cf.CFOR().cell_form == "joint" and cf.METHODS["CF-OR"]().cell_form == "product"
    with pytest.raises(UnknownNameError, match="variant"):
        cell_variant_strata(moments, family, "sum")


@pytest.mark.parametrize("family", FAMILIES)
def test_in_cash_the_joint_probability_drops_out(moments, family):
    joint, product = (
        cell_variant_strata(moments, family, variant) @ stratum_rewards("cash", 0.4)
        for variant in ("joint", "product, own take-up")
    )
    np.testing.assert_allclose(joint, product, atol=1e-9)


def test_take_up_and_conversion_are_not_independent_in_the_simulation():
    """So the product is not the joint: E[C Y] - E[C] E[Y], pair by pair from the known probabilities."""
    p = cf.simulated(n_users=40, n_items=30, n_pairs=900).test.strata_probability
    _, collect, _, convert = POTENTIAL_OUTCOMES.T
    joint, product = p @ (collect * convert), (p @ collect) * (p @ convert)
    assert np.abs(joint - product).mean() > 0.01


# 7. An NCF without interaction


def test_the_ncf_is_additive_and_mf_is_not():
    for kind, additive in ((AdditiveNetwork, True), (FactorizationNetwork, False)):
        network = kind(30, 20, 64, generator=derive_generator(0, "n", CPU))
        assert (largest_interaction(network) < 1e-9) is additive


def test_a_fitted_propensity_is_additive_too(study):
    nuisances = PairNuisances(study.train, config=SMALL, propensity_clip=(0.1, 0.9), device="cpu")
    network = nuisances.propensity_network()
    assert largest_interaction(network) < 1e-9
    small = network.compact()
    by_user, by_item = small.user[:, 0], small.item[:, 0]
    x = study.test.x
    logit = network(*torch.tensor(x.T.copy()))
    np.testing.assert_array_equal(
        (by_user[x[:, 0]] + by_item[x[:, 1]]).detach().numpy(), logit.detach().numpy()
    )


# 9 and 10. When training stops, and on what rows


class Scripted(torch.nn.Module):
    """Its loss an epoch is what the script says."""

    def __init__(self, losses):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.losses, self.rows = list(losses), []

    def loss(self, rows):
        self.rows.append(len(rows))
        return self.unused.sum() * 0 + self.losses[min(len(self.rows), len(self.losses)) - 1]


def epochs(losses, n_rows=10, **options):
    config = cf.FitConfig(batch_size=10, tolerance=1e-3, patience=3, **options)
    network = Scripted(losses)
    generator = derive_generator(0, "b", CPU)
    history = minimise(network, network.loss, (torch.arange(n_rows),), config, generator=generator, label="x")
    return history.n_epochs, network.rows


def test_the_count_of_stalled_epochs_is_never_reset_unless_asked():
    stall_fall = [8.0, 8.0, 7.0, 7.0, 6.0, 6.0, 5.0, 5.0, 5.0, 5.0]
    assert epochs(stall_fall)[0] == 6
    assert epochs(stall_fall, patience_resets=True)[0] == 10
    assert not cf.PAPER.nuisance.patience_resets


def test_the_incomplete_last_batch_is_dropped_unless_asked():
    losses = [1.0] * 20
    assert set(epochs(losses, n_rows=25)[1]) == {10}
    config = cf.FitConfig(batch_size=10, max_epochs=1, tolerance=1e-3, patience=1, keep_last_batch=True)
    network = Scripted([3.0, 2.0, 1.0, 3.0, 3.0, 3.0])
    minimise(
        network, network.loss, (torch.arange(25),), dataclasses.replace(config, max_epochs=5),
        generator=derive_generator(0, "b", CPU), label="x",
    )  # fmt: skip
    assert network.rows[:3] == [10, 10, 5]
    assert not cf.PAPER.nuisance.keep_last_batch


@pytest.mark.parametrize("n, left", [(8192, 0), (8191, 0), (8193, 1), (20_000, 3616), (1, 0)])
def test_rows_left_out(n, left):
    assert rows_left_out(n) == left
    assert rows_left_out(n, FIT_VARIANTS["last batch kept"]) == 0
    with pytest.raises(InputError, match="n_rows"):
        rows_left_out(0)


# 11. The propensity


def test_the_propensity_report_is_its_formulas():
    rng = np.random.default_rng(0)
    e, e_hat = rng.uniform(0.05, 0.95, (2, 4000))
    report = propensity_report(e_hat, e)
    t = np.random.default_rng(1).random((400, 4000)) < e
    drawn = -np.where(t, np.log(e_hat), np.log(1 - e_hat)).mean(axis=1)
    assert abs(report.log_loss - drawn.mean()) <= 3 * drawn.std() / 20
    assert propensity_report(e, e).log_loss == report.best_log_loss < report.constant_log_loss
    assert report.rmse == pytest.approx(np.sqrt(np.mean((e_hat - e) ** 2)))


def test_no_additive_model_reaches_a_propensity_with_interaction():
    """Least squares of the true logit on user and item effects leaves what an additive model cannot have."""
    for low_rank, misspecified in ((0.6, True), (0.0, False)):
        truth = cf.simulated(n_users=40, n_items=30, n_pairs=1200, low_rank=low_rank)
        x = np.concatenate([truth.train.x, truth.test.x])
        e = np.concatenate([truth.train_truth.propensity, truth.test.propensity])
        design = np.concatenate([np.eye(40)[x[:, 0]], np.eye(30)[x[:, 1]]], axis=1)
        logit = np.log(e / (1 - e))
        fitted = design @ np.linalg.lstsq(design, logit, rcond=None)[0]
        report = propensity_report(1 / (1 + np.exp(-fitted)), e)
        assert (report.rmse > 0.05) is misspecified
        assert (report.rmse < 1e-6) is not misspecified


# 12. Rows that break the budget


def test_three_printed_rows_break_the_budget_and_ours_cannot():
    found = rows_beyond_budget()
    assert found["beyond"].to_dict() == {
        ("ml-1m", "CF-OR", "coupon"): 9,
        ("kuairec", "DR", "coupon"): 1_679,
        ("yelp", "CF-MTL", "coupon"): 180,
    }
    with pytest.raises(AssertionError, match="break the budget"):
        tables._check_row({"positive": 60, "negative": 30, "neutral": 19, "reward": 48.0}, 270)


def test_the_budget_of_print_is_that_of_the_protocol():
    most = rows_beyond_budget()["most"].to_dict()
    for name in ("ml-1m", "kuairec"):  # Yelp's file repeats pairs: how many are left is not printed
        entry = CATALOG[name]
        n_test = study_sizes(int(entry.observed_share * entry.n_rows))[1]
        assert treatable(n_test, 0.4) in {v for k, v in most.items() if k[0] == name}
    assert study_sizes(1_000_209) == (1_260_263, 540_113)


# 14. Pairs that cannot be


def test_ids_that_were_never_rated_are_in_the_pool_and_no_pair_is_listed_twice():
    observed = np.stack([np.arange(20) % 10, np.arange(20) % 4], axis=1)
    observed = np.unique(observed, axis=0)
    drawn = sample_unobserved(observed, 10, 6, 30, np.random.default_rng(0))
    assert {4, 5} <= set(drawn[:, 1])  # items 4 and 5 have no rating
    assert len(np.unique(drawn, axis=0)) == 30
    assert not {tuple(pair) for pair in drawn} & {tuple(pair) for pair in observed}


# The run


@pytest.fixture
def small(monkeypatch):
    def small_study(source, data_dir, labelling, construction, seed, *, device, n_jobs=1, cache=None):
        return cf.simulated(labelling, construction, seed, n_users=40, n_items=30, n_pairs=900)

    monkeypatch.setattr(studies, "load_study", small_study)


def test_the_run_measures_every_entry_and_writes_it(small, tmp_path):
    table = ledger(
        seeds=1, construction="authors", device="cpu", n_jobs=1, progress=False, results_dir=tmp_path
    )
    assert list(table.columns) == [
        "dataset", "labelling", "construction", "seed", "entry", "variant", "quantity", "value",
    ]  # fmt: skip
    assert set(table["entry"]) == {
        "frozen", "loss weights", "cash formula", "cells", "used coupons", "fit of OR", "labelling",
        "propensity",
    }  # fmt: skip
    assert np.isfinite(table["value"]).all() and not table.duplicated(list(table.columns[:-1])).any()
    value = table.set_index(["entry", "variant", "quantity"])["value"]
    study = cf.simulated(n_users=40, n_items=30, n_pairs=900)
    for variant, name in (("product, take-up of OR", "CF-IPS"), ("joint", "IPS-net")):
        model = methods.estimator(name, device="cpu").fit(study.train)
        treat = cf.allocate(model.predict_reward(study.test.x, "coupon", 0.4), 0.4)
        reward = cf.count_outcomes(treat, study.test.stratum, "coupon", 0.4).reward
        assert value["cells", f"CF-IPS: {variant}", "coupon reward"] == pytest.approx(reward)
    model = methods.estimator("OR-net", device="cpu").fit(study.train)
    used = model.predict_moment(study.test.x, "collected_and_converted_treated")
    assert value["used coupons", "CF-OR: joint", "mean"] == pytest.approx(used.mean())
    buyers = study.test.stratum >= 3
    assert value["used coupons", "truth", "mean"] == buyers.mean()
    pairs = (used[buyers][:, None] > used[~buyers]).mean()
    assert value["used coupons", "CF-OR: joint", "AUC"] == pytest.approx(pairs, abs=1e-3)
    e_hat = predict_probability(model.nuisances_.propensity_network(), study.test.x)
    report = propensity_report(e_hat, study.test.propensity)
    assert value["propensity", "additive", "log_loss"] == pytest.approx(report.log_loss)

    def earns(model, scenario):
        treat = cf.allocate(model.predict_reward(study.test.x, scenario, 0.4), 0.4)
        return cf.count_outcomes(treat, study.test.stratum, scenario, 0.4).reward

    for entry, variant, fresh in (
        ("frozen", "fine-tuned", cf.CFMTLv1(device="cpu")),
        ("frozen", "frozen", cf.CFMTLv1(device="cpu", frozen=True)),
        ("loss weights", "as published", cf.CFMTL(device="cpu")),
        ("loss weights", "all equal", cf.CFMTL(device="cpu", weights=cf.CellWeights(1, 1, 1, 1, 1, 1))),
    ):
        fresh.fit(study.train)
        for scenario in cf.SCENARIOS:
            assert value[entry, variant, f"{scenario} reward"] == pytest.approx(earns(fresh, scenario))
    p = cf.CFMTL(device="cpu").fit(study.train).predict_strata(study.test.x)
    for variant, predicted in (("Table 1", p @ [0, 0, -0.4, 1, -0.4]), ("text", p @ [0, 0, 0, 0.6, -0.4])):
        treat = cf.allocate(predicted, 0.4)
        expected = cf.count_outcomes(treat, study.test.stratum, "cash", 0.4).reward
        assert value["cash formula", variant, "cash reward"] == pytest.approx(expected)
    for variant in ("as published", "cross-entropy", "last batch kept"):
        fresh = cf.OR(device="cpu", config=FIT_VARIANTS[variant]).fit(study.train)
        assert value["fit of OR", variant, "coupon reward"] == pytest.approx(earns(fresh, "coupon"))
        epochs = sum(history.n_epochs for history in fresh.nuisances_.histories.values())
        assert value["fit of OR", variant, "epochs"] == epochs
    found, record = load_results(tmp_path / "simulated", "ledger")
    pd.testing.assert_frame_equal(found, table)
    assert record["command"].startswith("cfmtl_lib.experiments.paper.ledger.ledger('simulated'")
    bins = load_results(tmp_path / "simulated", "ledger_propensity")[0]
    pd.testing.assert_frame_equal(bins, table.attrs["propensity"])
    assert bins["n"].sum() == 270 and (np.diff(bins["predicted"]) >= 0).all()


@pytest.mark.filterwarnings("ignore:.*max_epochs:sklearn.exceptions.ConvergenceWarning")
def test_on_ratings_the_labelling_network_and_the_pool_are_measured(tmp_path):
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(1000, 400, replace=False), 25)
    ratings = cf.Ratings(user, item, rng.integers(1, 6, 400), n_users=40, n_items=30)
    study = cf.semisynthetic(ratings, device="cpu")
    context = studies.StudyContext(study, ratings, "cpu", FitCache(tmp_path), 1)
    found = {(entry, name): value for entry, _, name, value in _labelling(context)}
    networks = fit_construction(ratings, device="cpu")
    score = predict_probability(networks.labeller, ratings.pairs)
    for name, expected in labelling_quality(score, ratings.outcome).items():
        assert found["labelling", name] == pytest.approx(expected)
    x = np.concatenate([study.train.x, study.test.x])
    stratum = np.concatenate([study.train_truth.stratum, study.test.stratum])
    assert found["unobserved pairs", "share"] == (x[stratum < 2][:, 1] >= 25).mean() > 0


@pytest.mark.parametrize("variant", CELL_VARIANTS)
def test_variants_sum_to_one(moments, variant):
    for family in FAMILIES:
        np.testing.assert_allclose(cell_variant_strata(moments, family, variant).sum(axis=1), 1, atol=1e-9)

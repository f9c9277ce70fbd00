"""Rewards of related systems on the studies of Table 4, and rows of Table 4 by any name."""

import re

import pytest
import threadpoolctl

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, UnknownNameError
from cfmtl_lib.experiments import studies
from cfmtl_lib.experiments.methods import METHODS, VARIANTS, known_methods, related_methods
from cfmtl_lib.experiments.paper import baselines
from cfmtl_lib.experiments.paper.baselines import (
    COLUMNS,
    KINDS,
    baseline_rewards,
    kind_of,
    on_shared_studies,
    summary_of,
)
from cfmtl_lib.experiments.paper.tables import ROWS_OF_TABLE4, rows_asked_for
from cfmtl_lib.figures import charts
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.provenance import checkout, load_results

FAST = ["CF-OR", "Naive"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(
        studies,
        "load_study",
        lambda dataset, data_dir, labelling, construction, seed, **options: cf.simulated(
            labelling, construction, seed, n_users=40, n_items=30, n_pairs=900
        ),
    )


def run(**options):
    given = {"methods": FAST, "seeds": 1, "construction": "authors", "n_jobs": 1, "progress": False}
    return baseline_rewards(**(given | {"device": "cpu"} | options))


@pytest.fixture
def fits(monkeypatch):
    """Names of the methods that were fitted."""
    found = []
    made = baselines._numbers

    def counted(model, context):
        found.append(model.method)
        return made(model, context)

    monkeypatch.setattr(baselines, "_numbers", counted)
    return found


def test_rewards_are_those_of_table_4_on_the_same_studies(tmp_path):
    found = run(results_dir=tmp_path)
    assert list(found.columns) == COLUMNS
    assert len(found) == 2 * 2 * 2  # labellings, methods, scenarios
    table = cf.table4(
        labelling="both",
        methods=FAST,
        seeds=1,
        construction="authors",
        n_jobs=1,
        device="cpu",
        progress=False,
    )
    key = ["labelling", "scenario", "method", "seed"]
    counts = ["positive", "negative", "neutral", "reward"]
    both = found.merge(table, on=key, suffixes=("", "_table"))
    assert len(both) == len(found)
    assert all((both[name] == both[f"{name}_table"]).all() for name in counts)
    assert found["reward"].tolist() == pytest.approx(found["positive"] - PAPER.cost * found["negative"])
    assert (found["rows_used"] == 630).all() and (found["fit_seconds"] >= 0).all()
    written, record = load_results(tmp_path / "simulated", "baselines")
    assert written["reward"].tolist() == found["reward"].tolist()
    assert {"lightgbm", "econml", "stochtree", "torch"} <= set(record["versions"])
    assert "baseline_rewards('simulated'" in record["command"]


def test_an_interrupted_run_continues(tmp_path, fits, monkeypatch):
    whole = run(labelling="code")
    fits.clear()
    fit = cf.Naive.fit

    def fail(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cf.Naive, "fit", fail)
    with pytest.raises(KeyboardInterrupt):
        run(labelling="code", fits_dir=tmp_path)
    assert fits == FAST
    monkeypatch.setattr(cf.Naive, "fit", fit)
    again = run(labelling="code", fits_dir=tmp_path)
    assert fits == [*FAST, "Naive"]
    assert again.drop(columns="fit_seconds").equals(whole.drop(columns="fit_seconds"))
    run(labelling="code", fits_dir=tmp_path, seeds=2)  # further seeds, and nothing of the first again
    assert fits == [*FAST, "Naive", *FAST]


def test_a_sample_is_stated(monkeypatch):
    monkeypatch.setattr(baselines, "estimator", lambda name, **options: cf.XLearner(max_rows=100))
    assert set(run(methods="X-learner", labelling="code")["rows_used"]) == {100}


def test_names_come_from_the_registry():
    names = related_methods()
    assert len(set(names)) == len(names) and set(names) <= set(known_methods())
    assert not set(names) & set(ROWS_OF_TABLE4)
    assert set(ROWS_OF_TABLE4[:-2]) <= set(known_methods())
    assert rows_asked_for(None, names) == names


def test_rows_of_table_4_by_any_name():
    assert rows_asked_for(None) == list(ROWS_OF_TABLE4)
    assert rows_asked_for(" OR , Random,OR,") == ["OR", "Random"]
    assert rows_asked_for(["CF-MTL w/o L_000"]) == ["CF-MTL w/o L_000"]
    listed = "', '".join([*METHODS, "OR-net"])
    with pytest.raises(UnknownNameError, match=f"method: expected one of '{listed}', .*, found 'SVM'"):
        rows_asked_for("OR,SVM")
    for nothing in ("", " , ", []):
        with pytest.raises(InputError, match="methods: expected at least one name, found none"):
            rows_asked_for(nothing)


def test_rows_of_both_tables_meet_on_shared_studies():
    found = run(labelling="code", methods="Naive,OR", seeds=2)
    options = {"construction": "authors", "n_jobs": 1, "device": "cpu", "progress": False}
    table = cf.table4(methods="CF-OR,Naive,Oracle", seeds=1, **options)
    both = on_shared_studies(found, table)
    assert set(both["seed"]) == {0}
    assert sorted(both["method"]) == sorted(2 * ["CF-OR", "Naive", "OR", "Oracle"])
    summary = summary_of(both).set_index(["scenario", "method"])
    assert (
        summary.loc["cash", "OR"]["mean"] == found.query("method == 'OR' and scenario == 'cash'")["reward"][3]
    )
    assert summary["strata"].groupby("method").first().to_dict() == {
        "CF-OR": True,
        "Naive": False,
        "OR": False,
        "Oracle": False,
    }
    assert set(summary["kind"]) == {"paper", "reference"} and (summary["seeds"] == 1).all()
    with pytest.raises(InputError, match="dataset: expected one in both tables, found mine, simulated"):
        on_shared_studies(found.assign(dataset="mine"), table)
    with pytest.raises(InputError, match="tables: expected studies that both have, found none"):
        on_shared_studies(found, table.assign(seed=7))
    assert len(charts.plot_learners(summary_of(both)).axes) == 2


def test_every_method_has_a_kind_with_a_colour():
    assert set(charts.KIND_COLOURS) == set(KINDS)
    kinds = {name: kind_of(name) for name in known_methods()}
    assert set(kinds.values()) <= set(KINDS)
    assert "DR-learner" in related_methods() and kinds["DR-learner"] == "effects"
    assert {kinds[name] for name in related_methods()} <= {"effects", "entire space", "latent strata"}


def test_the_chapter_says_what_each_learner_fits():
    text = (checkout() / "notebooks" / "15_baselines.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (?:\{cite\}|below)", text, flags=re.M)
    assert {VARIANTS.get(name, (name,))[0] for name in related_methods()} <= set(rows)


def test_methods_of_the_same_settings_do_not_share_counts(tmp_path):
    found = run(methods="OR,IPS", labelling="code", fits_dir=tmp_path)
    alone = run(methods="IPS", labelling="code")
    cached = found[found["method"] == "IPS"].reset_index(drop=True)
    assert cached.drop(columns="fit_seconds").equals(alone.drop(columns="fit_seconds"))
    assert not cached["reward"].equals(found.loc[found["method"] == "OR", "reward"].reset_index(drop=True))


def test_studies_side_by_side_take_one_thread_each():
    """Threads of two boosted fits on two cores wait for one another."""

    def threads(context):
        pools = threadpoolctl.threadpool_info()  # BLAS has one limit for all threads
        limits = {pool["num_threads"] for pool in pools if pool["user_api"] == "openmp"}
        return {"threads": [{"seed": context.study.seed, "limits": limits}]}

    settings = studies.StudySettings(construction="authors", seeds=2, n_jobs=2, progress=False)
    run = studies.run_studies(
        threads, settings, label="Threads", command="none", tables={"threads": ["seed", "limits"]}
    )
    assert run.tables["threads"]["limits"].tolist() == [{1}, {1}]

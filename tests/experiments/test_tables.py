"""The published tables: their shape, their invariants, their files, and the numbers they stand beside."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, RatingsError, UnknownNameError
from cfmtl_lib.experiments import methods, studies
from cfmtl_lib.experiments.paper import reported, tables
from cfmtl_lib.experiments.studies import SettingOptions, StudySettings, settings_of
from cfmtl_lib.protocol import ConstructionFits
from cfmtl_lib.runtime.provenance import load_results
from cfmtl_lib.strata import STRATA

COLUMNS = [
    "dataset",
    "labelling",
    "construction",
    "scenario",
    "method",
    "seed",
    "positive",
    "negative",
    "neutral",
    "reward",
]
PRINTED = ["Naive", "OR", "CF-OR", "IPS", "CF-IPS", "DR", "CF-DR", "CF-MTL", "CF-MTL-v1"]
BELOW = ["OR-net", "IPS-net", "DR-net", "Oracle", "Random"]
N_PAIRS = 900
N_TEST = 270


def small_study(source, data_dir, labelling, construction, seed, *, device, n_jobs=1, cache=None):
    """In place of the real one: simulated, and small."""
    return cf.simulated(labelling, construction, seed, n_users=40, n_items=30, n_pairs=N_PAIRS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(studies, "load_study", small_study)


def run(**options):
    return cf.table4(**({"n_jobs": 1, "seeds": 2, "device": "cpu", "progress": False} | options))


def quick(**options):
    return run(**({"methods": ["Naive", "CF-OR"], "seeds": 1} | options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All methods on small studies of one labelling, and the folder that they were written to."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "load_study", small_study)
        return run(labelling="text", results_dir=folder), folder


def test_rows_are_methods_by_scenarios_by_studies(whole):
    for table, labellings, expected in (
        (whole[0], ["text"], PRINTED + BELOW),
        (quick(labelling="both", seeds=2), ["code", "text"], ["Naive", "CF-OR"]),
    ):
        assert list(table.columns) == COLUMNS
        assert len(table) == len(expected) * 2 * len(labellings) * 2 * 2
        assert not table.duplicated(COLUMNS[:6]).any()
        for column, values in {
            "dataset": ["simulated"],
            "labelling": labellings,
            "construction": ["authors", "document"],
            "scenario": ["coupon", "cash"],
            "method": expected,
            "seed": [0, 1],
        }.items():
            assert list(table[column].unique()) == values
    assert list(cf.METHODS) == PRINTED


def test_every_row_keeps_the_invariants(whole):
    table, folder = whole
    counts = table[["positive", "negative", "neutral"]]
    assert (counts >= 0).all(axis=None) and all(kind.kind == "i" for kind in counts.dtypes)
    assert (counts.sum(axis=1) <= math.floor(0.4 * N_TEST)).all()
    np.testing.assert_allclose(table["reward"], table["positive"] - 0.4 * table["negative"], atol=1e-6)
    treated = load_results(folder / "simulated", "table4_treated")[0]
    assert list(treated.columns) == [*COLUMNS[:6], *STRATA]
    pd.testing.assert_frame_equal(treated[COLUMNS[:6]], table[COLUMNS[:6]])
    cash = table["scenario"] == "cash"
    np.testing.assert_array_equal(table["positive"], treated["coupon buyer"])
    np.testing.assert_array_equal(table["negative"], treated["always buyer"] + cash * treated["coupon taker"])
    np.testing.assert_array_equal(
        table["neutral"], treated["never buyer"] + treated["never taker"] + ~cash * treated["coupon taker"]
    )


def test_rows_are_what_the_estimators_earn_when_fitted_alone(whole):
    table, _ = whole
    study = small_study(None, None, "text", "document", 1, device="cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in PRINTED + BELOW[:3]:
            model = methods.estimator(name, seed=1, device="cpu").fit(study.train)
            for scenario in cf.SCENARIOS:
                treat = cf.allocate(model.predict_reward(study.test.x, scenario, 0.4), 0.4)
                expected = cf.count_outcomes(treat, study.test.stratum, scenario, 0.4)
                row = table.query(
                    "labelling == 'text' and construction == 'document' and seed == 1"
                    " and method == @name and scenario == @scenario"
                )
                assert [tuple(r) for r in row[COLUMNS[6:]].to_numpy()] == [tuple(expected)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "row",
    [
        {"positive": 60, "negative": 30, "neutral": 19, "reward": 48.0},  # 109 of 270 pairs
        {"positive": 60, "negative": 30, "neutral": 10, "reward": 48.1},
        {"positive": 60, "negative": 30, "neutral": 10, "reward": 60.0},
    ],
)
def test_a_row_that_breaks_an_invariant_is_a_bug(row):
    with pytest.raises(AssertionError, match=r"break the budget|reward is not"):
        tables._check_row(row, N_TEST)
    tables._check_row({"positive": 60, "negative": 30, "neutral": 18, "reward": 48.0}, N_TEST)


def test_a_broken_row_is_never_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "paper_policy", lambda reward: np.ones(len(reward), dtype=bool))
    with pytest.raises(AssertionError, match="break the budget"):
        quick(results_dir=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_same_call_same_bits_and_threads_are_as_before():
    before = torch.get_num_threads()
    first, again = quick(), quick()
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert torch.get_num_threads() == before


def test_fits_side_by_side_inside_one_study_change_no_bit():
    study = cf.simulated(n_users=40, n_items=30, n_pairs=N_PAIRS)
    one, two = (
        cf.fit_methods(study, ["OR", "CF-MTL", "CF-OR"], device="cpu", seed=0, n_jobs=n) for n in (1, 2)
    )
    assert list(one) == list(two) == ["OR", "CF-MTL", "CF-OR"]
    for name, model in one.items():
        np.testing.assert_array_equal(
            two[name].predict_reward(study.test.x, "coupon", 0.4),
            model.predict_reward(study.test.x, "coupon", 0.4),
        )


def test_methods_and_studies_do_not_depend_on_what_else_is_asked_for(whole):
    table, _ = whole
    part = run(methods=["CF-MTL", "CF-DR"], labelling="text", construction="document", seeds=1)
    assert list(part["method"].unique()) == ["CF-MTL", "CF-DR"]
    same = table.merge(part[COLUMNS[:6]], on=COLUMNS[:6])
    pd.testing.assert_frame_equal(
        part.sort_values(COLUMNS[:6], ignore_index=True),
        same.sort_values(COLUMNS[:6], ignore_index=True),
        check_exact=True,
    )


# With four hundred ratings a step sees them all, and the published fits end at their last epoch.
FEW_RATINGS = pytest.mark.filterwarnings("ignore:.*max_epochs:sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def csv(tmp_path, monkeypatch):
    """A small table of ratings, and the real way from it to a study."""
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(1200, 400, replace=False), 30)
    path = tmp_path / "mine.csv"
    frame = pd.DataFrame({"user": user, "item": item, "rating": rng.integers(1, 6, 400)})
    frame.to_csv(path, index=False)
    return path


@FEW_RATINGS
def test_a_table_of_ratings_works_end_to_end_and_does_not_depend_on_the_number_of_jobs(csv, tmp_path):
    options = {"dataset": str(csv), "methods": ["Naive"], "construction": "authors"}
    one = run(**options, results_dir=tmp_path / "results")
    two = run(**options, n_jobs=2)
    assert len(one) == 4 and set(one["dataset"]) == {"mine"}
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    found, record = load_results(tmp_path / "results" / "mine", "table4")
    pd.testing.assert_frame_equal(found, one)
    assert record["data_fingerprint"] == cf.load_ratings(csv).fingerprint
    assert str(tmp_path) not in record["command"]  # a path of one's own is no part of a published record


@FEW_RATINGS
def test_relative_paths_start_at_data_dir(csv):
    found = run(dataset=csv.name, data_dir=csv.parent, methods=["Naive"], seeds=1, construction="authors")
    assert set(found["dataset"]) == {"mine"}


@FEW_RATINGS
def test_the_threshold_makes_the_outcomes_and_is_on_record(csv, tmp_path):
    ratings = pd.read_csv(csv)["rating"]
    options = {"dataset": str(csv), "methods": ["Naive"], "seeds": 1, "construction": "authors"}
    tables = {threshold: run(**options, threshold=threshold) for threshold in (None, 3, 4)}
    for threshold, table in tables.items():
        limit = 3 if threshold is None else threshold
        rule = f"above {limit}, {100 * (ratings > limit).mean():.3g} % of 400 ratings"
        assert rule in table.attrs["provenance"]["protocol"]["outcome"]
        given = "" if threshold is None else f"threshold={threshold}, "
        assert f"table4('PATH', {given}labelling=" in table.attrs["provenance"]["command"]
    assert "-p dataset ml-1m -p threshold 3.5 -p l" in cf.StudySettings("ml-1m", threshold=3.5).papermill(
        "07"
    )
    pd.testing.assert_frame_equal(tables[None], tables[3])
    assert not tables[3]["reward"].equals(tables[4]["reward"])


def test_no_study_has_outcomes_that_nobody_chose(csv):
    frame = pd.read_csv(csv)
    for ratings in (frame["rating"] / 10, frame["rating"] * 2):  # watch ratios; stars from 1 to 10
        frame.assign(rating=ratings).to_csv(csv, index=False)
        with pytest.raises(cf.RatingsError, match=r"threshold: .*they go from .*-p threshold"):
            run(dataset=str(csv), methods=["Naive"], seeds=1)
    with pytest.raises(cf.RatingsError, match="threshold: expected None for simulated outcomes"):
        run(threshold=3, methods=["Naive"], seeds=1)


def test_files_are_written_with_their_provenance(whole):
    table, folder = whole
    assert sorted(path.name for path in (folder / "simulated").iterdir()) == [
        "table4.csv",
        "table4.json",
        "table4_treated.csv",
        "table4_treated.json",
    ]
    found, record = load_results(folder / "simulated", "table4")
    pd.testing.assert_frame_equal(found, table)
    provenance = table.attrs["provenance"]
    assert record == provenance | {key: record[key] for key in ("table", "sha256", "rows", "tables_of_run")}
    assert record["seeds"] == [0, 1]
    assert record["device"] == "cpu"
    assert record["protocol"].pop("outcome").startswith("simulated:")
    assert record["protocol"] == {"cost": 0.4, "budget": 0.4, "cell_form": "product"}
    for words in ("-p dataset simulated", "-p labelling text", "-p construction both", "-p seeds 2"):
        assert words in record["command"]
    prints = record["data_fingerprint"]  # the overlap differs by construction
    assert len(prints) == 4 and len(set(prints.values())) == 2
    assert prints["text authors 0"] == prints["text authors 1"] != prints["text document 0"]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"dataset": "netflix"}, UnknownNameError, "dataset.*'simulated', 'ml-1m'"),
        ({"dataset": "none.csv"}, RatingsError, "no such file"),
        ({"labelling": "paper"}, UnknownNameError, "labelling: expected one of 'code', 'text', 'both'"),
        ({"construction": "paper"}, UnknownNameError, "construction: .*'authors', 'document', 'both'"),
        ({"methods": ["Naive", "SVM"]}, UnknownNameError, "method: .*'CF-MTL-v1', .*'Random', found 'SVM'"),
        ({"methods": []}, InputError, "methods"),
        ({"device": "gpu"}, UnknownNameError, "device"),
        ({"seeds": 0}, InputError, "seeds: expected a whole number >= 1, found 0"),
        ({"seeds": 2.0}, InputError, "seeds"),
        ({"seeds": True}, InputError, "seeds"),
        ({"n_jobs": 0}, InputError, "n_jobs"),
        ({"n_jobs": -1}, InputError, "n_jobs"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_made(change, error, message, tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("a study was made")

    monkeypatch.setattr(studies, "load_study", never)
    with pytest.raises(error, match=message):
        run(**({"results_dir": tmp_path / "results"} | change))
    assert not (tmp_path / "results").exists()


def test_ctrl_c_in_the_middle_leaves_the_old_results(tmp_path, monkeypatch):
    quick(results_dir=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(before) == 4
    made = []

    def interrupted(*arguments, **options):
        made.append(arguments)
        if len(made) == 3:
            raise KeyboardInterrupt
        return small_study(*arguments, **options)

    monkeypatch.setattr(studies, "load_study", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick(seeds=3, results_dir=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    load_results(tmp_path / "simulated", "table4")


def test_progress_goes_to_stderr_and_can_be_silenced(capsys):
    quick(progress=False)
    assert capsys.readouterr() == ("", "")
    quick(progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "Table 4 on simulated: studies: 2/2 done" in err


def test_a_policy_that_knows_the_strata_probabilities_is_the_ceiling():
    study = cf.simulated(n_users=150, n_items=150, n_pairs=20_000)
    p, stratum = study.test.strata_probability, study.test.stratum
    best = tables.true_probability_rewards(study).set_index("scenario")
    for scenario, waste in (("coupon", 0), ("cash", 0.4)):
        expected = p @ [0, 0, -waste, 1, -0.4]
        treated = np.argsort(-expected, kind="stable")[: int(0.4 * 6000)]
        earned = np.array([0, 0, -waste, 1, -0.4])[stratum[treated]].sum()
        assert best.loc[scenario, "reward"] == pytest.approx(earned)
    unknown = dataclasses.replace(study, test=dataclasses.replace(study.test, strata_probability=None))
    with pytest.raises(InputError, match="known strata probabilities"):
        tables.true_probability_rewards(unknown)


# Pairs that the printed rows treat at most: floor(0.4 * number of test pairs).
TREATABLE = {"ml-1m": 216_045, "yelp": 157_973, "kuairec": 202_028}


def test_the_printed_table_keeps_the_invariants_but_for_known_misprints():
    table = reported.reported_table4()
    assert list(table.columns) == [
        "scenario",
        "dataset",
        "method",
        "positive",
        "negative",
        "neutral",
        "reward",
    ]
    assert len(table) == 54 == len(table[["scenario", "dataset", "method"]].drop_duplicates())
    assert set(table["scenario"]) == set(cf.SCENARIOS)
    assert set(table["dataset"]) == set(TREATABLE)
    assert set(table["method"]) == set(PRINTED)
    assert ((table["positive"] - 0.4 * table["negative"] - table["reward"]).abs() <= 1 + 1e-9).all()
    treated = table[["positive", "negative", "neutral"]].sum(axis=1)
    beyond = table[treated > table["dataset"].map(TREATABLE)]
    assert {
        (row.dataset, row.method, row.scenario): int(treated[row.Index]) for row in beyond.itertuples()
    } == {
        ("kuairec", "DR", "coupon"): 203_707,
        ("yelp", "CF-MTL", "coupon"): 158_153,
        ("ml-1m", "CF-OR", "coupon"): 216_054,
    }


def test_printed_rows_are_compared_on_the_construction_they_were_printed_from():
    rows = [
        {
            "dataset": "ml-1m",
            "labelling": labelling,
            "construction": construction,
            "scenario": scenario,
            "method": method,
            "seed": seed,
            "reward": 1000.0 * (labelling == "code") + 100 * (construction == "document") + 10 * seed,
        }
        for labelling in ("code", "text")
        for construction in ("authors", "document")
        for scenario in ("coupon", "cash")
        for method in ("CF-MTL", "CF-MTL-v1", "Naive")
        for seed in (0, 1, 2)
    ]
    both = reported.compare_with_reported(pd.DataFrame(rows), "ml-1m")
    assert len(both) == 6
    for (_, method), row in both.iterrows():
        assert row["mean"] == (1110 if method == "CF-MTL-v1" else 1010)
        assert (row["sd"], row["seeds"]) == (10, 3)
        assert row["difference"] == row["mean"] - row["reported"]
        assert row["percent"] == pytest.approx(100 * row["difference"] / abs(row["reported"]))
    assert both.loc[("cash", "CF-MTL"), "reported"] == 62_475
    assert reported.compare_with_reported(pd.DataFrame(rows), "simulated").empty
    text_only = pd.DataFrame(rows).query("labelling == 'text'")
    assert reported.compare_with_reported(text_only, "ml-1m").empty


def test_every_setting_is_that_of_the_protocol():
    baseline = cf.FitConfig(
        loss="squared_error",
        embedding_k=64,
        embedding_sd=1.0,
        learning_rate=0.01,
        weight_decay=1e-5,
        batch_size=8192,
        tolerance=1e-4,
        patience=7,
        max_epochs=1000,
    )

    def but(**changes):
        return dataclasses.replace(baseline, **changes)

    settings = {field.name: getattr(cf.PAPER, field.name) for field in dataclasses.fields(cf.PAPER)}
    assert settings == {
        "construction": {
            "authors": ConstructionFits(
                labelling=but(tolerance=1e-5, loss="squared_error"),
                assignment=but(tolerance=1e-5, loss="cross_entropy", batch_size=2048),
            ),
            "document": ConstructionFits(
                labelling=but(tolerance=1e-5, loss="cross_entropy"),
                assignment=but(tolerance=1e-5, loss="squared_error", batch_size=2048),
            ),
        },
        "unobserved_share": 0.8,
        "train_share": 0.7,
        "nuisance": baseline,
        "propensity_clip": (0.1, 0.9),
        "joint": but(tolerance=1e-5),
        "joint_weights": cf.CellWeights(t1c0y0=5, t1c0y1=1, t1c1y0=1, t1c1y1=5, t0c0y1=5, t0c0y0=5),
        "two_stage_weights": cf.CellWeights(t1c0y0=1, t1c0y1=1, t1c1y0=1, t1c1y1=5, t0c0y1=10, t0c0y0=10),
        "propensity_weight": 0.5,
        "joint_propensity_floor": 0.1,
        "pretraining_propensity": but(loss="cross_entropy"),
        "pretraining_outcome": but(loss="squared_error"),
        "cost": 0.4,
        "budget": 0.4,
    }


def test_settings_are_keywords_or_one_object():
    settings = StudySettings("simulated", seeds=1, labelling="text")
    assert settings_of(settings, {}) is settings
    assert settings_of("simulated", {"seeds": 1, "labelling": "text"}) == settings
    assert settings_of("yelp", {}, labelling="text").labelling == "text"
    fields = set(StudySettings.__dataclass_fields__) - {"dataset"}
    assert fields == set(SettingOptions.__annotations__)
    with pytest.raises(InputError, match="no keywords beside StudySettings, found seeds"):
        cf.table4(settings, seeds=2)
    with pytest.raises(cf.UnknownNameError, match=r"setting: expected one of 'data_dir'.* found 'sedes'"):
        cf.table4(sedes=2)

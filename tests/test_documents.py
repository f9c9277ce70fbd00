"""What README and notebooks say must work, and be the same everywhere."""

import ast
import re
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.md"))
DEFAULTS = {
    "dataset": "simulated",
    "data_dir": None,
    "labelling": "code",
    "construction": "both",
    "device": "auto",
    "results_dir": None,
}

OF_ONE_CHAPTER = {"07_table4": {"methods": None}, "15_baselines": {"methods": None}}
"""Parameters that a chapter has beside those of all."""


def parameters(path):
    (cell,) = (c for c in jupytext.read(path).cells if "parameters" in c.metadata.get("tags", []))
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(cell.source).body
    }


def reads_ratings(path):
    return "kuairec" in path.read_text(encoding="utf-8").split("results_dir = ")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_the_same_parameters(path):
    found = parameters(path)
    assert found.pop("seeds") in (1, 2)
    for name, default in OF_ONE_CHAPTER.get(path.stem, {}).items():
        assert found.pop(name, "none") == default
    # Chapters that read ratings have a threshold of the outcome.
    ratings = {"threshold": None} if reads_ratings(path) else {}
    assert found == DEFAULTS | ratings
    assert list(found) == list(DEFAULTS)[:2] + list(ratings) + list(DEFAULTS)[2:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_check_their_parameters_first(path):
    cells = [c for c in jupytext.read(path).cells if c.cell_type == "code"]
    assert "parameters" in cells[0].metadata["tags"]
    lines = [line for line in cells[1].source.splitlines() if line.strip()]
    assert lines[0] == "from cfmtl_lib.experiments.book.notebooks import check_parameters"
    assert lines[1].startswith("check_parameters(")
    known = {*DEFAULTS, "seeds", *OF_ONE_CHAPTER.get(path.stem, {})} | (
        {"threshold"} if reads_ratings(path) else set()
    )
    assert set(re.findall(r'"(\w+)"', cells[1].source.split(")\n")[0])) == known


@pytest.mark.parametrize("path", [*filter(reads_ratings, NOTEBOOKS)], ids=lambda path: path.stem)
def test_notebooks_pass_the_threshold_on_and_print_the_share_above_it(path):
    """A table of watch ratios, read with the threshold of stars, had 0.3 % positives without a word."""
    code = "\n".join(c.source for c in jupytext.read(path).cells if c.cell_type == "code")
    places = [
        keyword
        for call in ast.walk(ast.parse(code))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "threshold" and ast.unparse(keyword.value) == "threshold"
    ]
    shared = re.findall(r'^    "threshold": threshold,$', code, flags=re.MULTILINE)
    data = code.count("data_dir=data_dir") + code.count('"data_dir": data_dir') + code.count("load_study(")
    assert len(places) + len(shared) == data > 0
    assert re.search(r"^print\(.*(outcome_rule|\[\"outcome\"\])\)$", code, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "book/index.md"])
def test_the_library_example_runs(name, monkeypatch):
    text = (ROOT / name).read_text(encoding="utf-8")
    code = re.search(r"```python\n(import cfmtl_lib as cf\n\nratings.*?)```", text, flags=re.S).group(1)
    asked = {}
    # The real thing needs the ratings file: names and arguments are checked, data are simulated.
    monkeypatch.setattr(cf, "load_ratings", lambda *a, **k: asked.update(name=a, **k) or "ratings")
    monkeypatch.setattr(
        cf,
        "semisynthetic",
        lambda ratings, **options: cf.simulated(**options, n_users=40, n_items=30, n_pairs=900),
    )
    names: dict = {}
    exec(code, names)
    assert asked == {"name": ("ml-1m",), "data_dir": "PATH"}
    assert names["p"].shape == (270, 5)
    assert names["treat"].sum() <= 0.4 * 270


def test_ten_statements_lead_from_a_table_to_targets(tmp_path, monkeypatch, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import pandas as pd\n.*?)```", readme, flags=re.S)
    assert len(ast.parse(code).body) <= 10
    assert f"```{{code-cell}} ipython3\n{code}```" in (ROOT / "notebooks/10_your_own_data.md").read_text(
        "utf-8"
    )
    past, later = cf.simulated_campaign(3000, seed=1), cf.simulated_campaign(500, seed=2)
    past.table.to_csv(tmp_path / "campaign.csv", index=False)
    later.table.drop(columns=["mailed", "redeemed", "bought"]).to_csv(tmp_path / "customers.csv", index=False)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    targets = pd.read_csv(tmp_path / "targets.csv")
    assert 0 < len(targets) <= 200 and set(targets["customer"]) < set(later.table["customer"])
    reward = names["model"].predict_reward(later.table, "coupon", 0.4)
    np.testing.assert_array_equal(targets["customer"], np.flatnonzero(cf.allocate(reward, 0.4)))
    second = names["second"]
    value = cf.policy_value(
        cf.allocate(names["model"].predict_reward(second, "coupon", 0.4), 0.4), second, cost=0.4
    )
    assert capsys.readouterr().out.strip() == str(value)
    kept = ~names["log"].split_mask(0.5, seed=0)
    truth = cf.expected_reward(past.strata_probability[kept], "coupon", 0.4)
    chosen = cf.allocate(names["model"].predict_reward(second, "coupon", 0.4), 0.4)
    assert abs(value.value - (chosen * truth).mean()) < 3 * value.standard_error


def markdown(path):
    cells = jupytext.read(path).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapters_have_the_same_frame(path):
    text = markdown(path)
    frame = ["**After this chapter you can**", "**The idea.**", "## Summary", "**What is not known.**"]
    frame += ["## Exercises", "## Further reading"]
    assert [text.count(part) for part in frame] == [1] * len(frame)
    places = [text.index(part) for part in frame]
    assert places == sorted(places)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_have_solutions_and_some_of_them_are_checked(path):
    notebook = jupytext.read(path)
    text = markdown(path).split("## Exercises")[1]
    exercises = re.findall(r"```\{exercise-start\} \S.*\n:label: (\S+)", text)
    assert len(exercises) >= 3
    assert re.findall(r"````\{solution-start\} (\S+)\n:class: dropdown", text) == exercises
    number = path.stem.split("_")[0]
    assert all(label.startswith(f"ex-{number}-") for label in exercises)
    start = next(k for k, c in enumerate(notebook.cells) if "## Exercises" in c.source)
    code = [c.source for c in notebook.cells[start:] if c.cell_type == "code"]
    assert sum("assert" in source for source in code) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_of_chapters_have_a_text(path):
    code = "\n".join(c.source for c in jupytext.read(path).cells if c.cell_type == "code")
    assert "plt.show(" not in code, "show figures by style.picture(figure, text)"
    drawn = len(re.findall(r"\bcharts\.plot_|\bplt\.subplots\(|\bdiagrams\.", code))
    shown = len(re.findall(r"\bstyle\.picture\(", code))
    assert shown == drawn
    assert not drawn or "style.use_style()" in code


def test_the_first_page_leads_to_table_4():
    """Its commands are those of README.md and of the notebooks, with parameters that exist."""
    text = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(git clone.*?)```", text, flags=re.S)
    assert block.split("\n")[1:4] == ["cd companion", "make env", "source .venv/bin/activate"]
    command = block.split("\n")[4]
    assert command.startswith("papermill notebooks/07_table4.md out.ipynb ")
    given = dict(re.findall(r"-p (\w+) (\S+)", command))
    assert set(given) <= {*DEFAULTS, "seeds"} and given["seeds"] == "1" and given["dataset"] == "ml-1m"

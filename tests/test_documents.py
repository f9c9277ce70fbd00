"""What README and notebooks say must work, and be the same everywhere."""

import ast
import re
from pathlib import Path

import jupytext
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


def parameters(path):
    (cell,) = (c for c in jupytext.read(path).cells if "parameters" in c.metadata.get("tags", []))
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(cell.source).body
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_the_same_parameters(path):
    found = parameters(path)
    assert found.pop("seeds") in (1, 2)
    assert found == DEFAULTS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_check_their_parameters_first(path):
    cells = [c for c in jupytext.read(path).cells if c.cell_type == "code"]
    assert "parameters" in cells[0].metadata["tags"]
    lines = [line for line in cells[1].source.splitlines() if line.strip()]
    assert lines[0] == "from cfmtl_lib.notebook_io import check_parameters"
    assert lines[1].startswith("check_parameters(")
    assert set(re.findall(r'"(\w+)"', cells[1].source.split(")\n")[0])) == {*DEFAULTS, "seeds"}


def test_readme_lists_the_parameters_of_table_4():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.M)[:7] == list(
        parameters(ROOT / "notebooks/07_table4.md")
    )


@pytest.mark.parametrize("name", ["README.md", "book/index.md"])
def test_the_library_example_runs(name, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.S).group(1)
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

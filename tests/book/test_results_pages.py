"""Numbers on prose pages: computed, traceable, written anew when a file changes, and none typed by hand."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.experiments.book import published_numbers
from cfmtl_lib.experiments.book.notebooks import FINGERPRINT_KEY
from cfmtl_lib.experiments.paper import comparison
from cfmtl_lib.runtime.provenance import save_results

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.md"))
PROSE = [*CHAPTERS, *sorted((ROOT / "book").glob("*.md")), ROOT / "README.md"]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"book/_ext/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


readme = load("readme")
pages = load("results_pages")


class Numbers(HTMLParser):
    """Text and target of each number of results/ on a page."""

    def __init__(self, path):
        super().__init__()
        self.found, self._link, self._name, self._text = {}, None, None, ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "a":
            self._link = values.get("href")
        names = re.findall(r"\bresult-([\w-]+)", values.get("class") or "")
        if tag == "span" and names:
            self._name, self._text = names[0], ""

    def handle_data(self, data):
        if self._name:
            self._text += data

    def handle_endtag(self, tag):
        if tag == "span" and self._name:
            self.found[self._name] = (self._text, self._link)
            self._name = None


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A small book with one number after the other, its provenance and the table of printed numbers."""
    root = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / "results", root / "results")
    for name in ("_ext", "assets", "references.bib", "_toc.yml"):
        copy = shutil.copytree if (ROOT / "book" / name).is_dir() else shutil.copy
        (root / "book").mkdir(exist_ok=True)
        copy(ROOT / "book" / name, root / "book" / name)
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n- file: provenance\n- file: printed_numbers\n",
        encoding="utf-8",
    )
    lines = "\n".join(f"- {{result}}`{name}`" for name in published_numbers.facts(root / "results"))
    texts = {
        "index": f"# Numbers\n\n{lines}\n",
        "provenance": "# Provenance\n\n```{provenance}\n```\n",
        "printed_numbers": "# Printed\n\n```{printed-numbers}\n```\n\n```{ranking-figure}\n```\n",
    }
    for name, text in texts.items():
        (root / "book" / f"{name}.md").write_text(text, encoding="utf-8")
    return root


def build(root, *options):
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book/", *options]
    return subprocess.run(
        command, cwd=root, capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"}
    )


def shown(root, page="index"):
    return Numbers(root / f"_build/html/{page}.html").found


def test_numbers_are_those_of_the_files_and_change_with_them(book):
    done = build(book, "-W", "--keep-going")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = published_numbers.facts(book / "results")
    before = shown(book)
    assert {name: text for name, (text, _) in before.items()} == {k: f.text for k, f in facts.items()}
    provenance = (book / "_build/html/provenance.html").read_text(encoding="utf-8")
    for name, (_, link) in before.items():
        label = pages.label_of(facts[name].source)
        assert link == f"provenance.html#{label}", name
        section = provenance.split(f'id="{label}"')[1].split("<section")[0]
        record = json.loads(
            (book / "results" / facts[name].source).with_suffix(".json").read_text(encoding="utf-8")
        )
        assert record["commit"] in section
        assert "_downloads/" in section and f"{Path(facts[name].source).name}" in section
    printed = (book / "_build/html/printed_numbers.html").read_text(encoding="utf-8")
    judged = comparison.verdicts(book / "results")["verdict"]
    assert printed.count("reproduced</p>") == (judged == "reproduced").sum()

    table = pd.read_csv(book / "results/ml-1m/table4.csv")
    table.loc[table["method"] == "CF-MTL", "reward"] *= 1.07
    save_results({"table4": table}, book / "results/ml-1m", {"command": "changed", "commit": "0" * 40,
        "fits": 1, "fit_seconds": 1.0, "machine": {"cores": 1, "memory_gib": 1.0}})  # fmt: skip
    done = build(book, "-W", "--keep-going")
    assert done.returncode == 0, done.stdout + done.stderr
    after = shown(book)
    assert after["table4-reproduced"][0] != before["table4-reproduced"][0]
    assert {k: text for k, (text, _) in after.items()} == {
        k: fact.text for k, fact in published_numbers.facts(book / "results").items()
    }
    assert "0" * 40 in (book / "_build/html/provenance.html").read_text(encoding="utf-8")
    printed = (book / "_build/html/printed_numbers.html").read_text(encoding="utf-8")
    assert "not reproduced</p>" in printed


def test_unknown_number_is_named(book):
    index = book / "book/index.md"
    before = index.read_text(encoding="utf-8")
    index.write_text("# Numbers\n\n{result}`table4-reprodced`\n", encoding="utf-8")
    done = build(book, "-W", "--keep-going")
    index.write_text(before, encoding="utf-8")
    assert done.returncode != 0
    assert "found 'table4-reprodced'" in done.stdout + done.stderr


def without_code_blocks(text):
    """Lines outside fences, and inside fences of directives, which hold prose."""
    kept, fence, is_directive = [], "", True
    for line in text.splitlines():
        ticks = re.match(r"`*", line)[0]
        if len(ticks) >= 3 and not fence:
            fence, is_directive = ticks, line.removeprefix(ticks).startswith("{")
        elif fence and line.rstrip() == fence:
            fence, is_directive = "", True
        elif not fence or is_directive:
            kept.append(line)
    return "\n".join(kept)


def prose(path):
    """What an author typed: no code, no formulas, no links, no computed block."""
    text = path.read_text(encoding="utf-8")
    if path in CHAPTERS:
        cells = jupytext.read(path).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = without_code_blocks(text)
    for pattern in (
        re.escape(readme.BEGIN) + ".*?" + re.escape(readme.END),
        r"\$\$.*?\$\$",
        r"\$[^$]*\$",
        r"`[^`\n]*`",
        r"\]\([^)]*\)",
        r"https?://\S+",
        r"\b10\.\d{4,}/\S+",
    ):
        text = re.sub(pattern, " ", text, flags=re.S)
    return text


RESULT_LIKE = re.compile(r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?\s?%|±\s?\d+|\b0\.\d{2,}\b")

# What may be typed: settings of the protocol, levels of confidence, and settings of a cell beside the text.
TYPED = {
    "3 %": "tolerance of a verdict",
    "40 %": "the paper's budget",
    "70 %": "training share; share put off in chapter 2",
    "30 %": "test share",
    "95 %": "level of intervals",
    "99 %": "level of the limits of a coverage",
    "5,000": "rows of a simulated log in chapter 4",
    "100 %": "all of a gain",
    "80 %": "a quotation: heading of entry 13",
    "2,469": "a quotation: households of The Complete Journey",
}


def test_no_result_is_typed_by_hand():
    found = {}
    for path in PROSE:
        for number in RESULT_LIKE.findall(prose(path)):
            found.setdefault(number.replace("\u202f", " "), set()).add(path.name)
    assert {number: where for number, where in found.items() if number not in TYPED} == {}
    assert set(TYPED) <= set(found), "allowed, and nowhere: remove it from the list"
    assert f"{comparison.TOLERANCE:g} %" in TYPED


def test_the_hunt_finds_what_it_should(tmp_path):
    path = tmp_path / "page.md"
    text = "Rewards of 37,426 $5,001$ and `6,002`, 2.2 % off, ± 40; share 0.843.\n"
    text += "```{note}\n7,003 here\n```\nbetween: 8,004\n```\n9,005 in code\n```\n"
    path.write_text(text, encoding="utf-8")
    assert RESULT_LIKE.findall(prose(path)) == ["37,426", "2.2 %", "± 40", "0.843", "7,003", "8,004"]


def test_readme_shows_the_present_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    again = "Run: python book/_ext/readme.py"
    assert readme.renewed(text, readme.results_block(ROOT)) == text, again
    # Drawings differ in their last digits from machine to machine: what they show is what counts.
    stored, drawn = ((ROOT / readme.FIGURE).read_bytes(), readme.figure(ROOT))
    assert stored.split(b"<svg ")[0] == drawn.split(b"<svg ")[0], again
    assert comparison.ranking(ROOT / "results").alt in text


def test_readme_without_its_markers_is_refused():
    with pytest.raises(ValueError, match="once each"):
        readme.renewed("# A readme\n", "block")


def test_a_run_is_told_in_full():
    run = nbformat.v4.new_notebook(
        metadata={
            "papermill": {"parameters": {"seeds": 3}, "duration": 12.4, "end_time": "2026-01-02T03:04:05"},
            FINGERPRINT_KEY: {
                "commit": "0123456789abcdef",
                "commit_is_clean": False,
                "versions": {"torch": "2"},
                "machine": {
                    "system": "Linux", "architecture": "x86_64", "processor": "P",
                    "cores": 2, "memory_gib": 4.0,
                },
            },
        }
    )  # fmt: skip
    found = pages.run_facts("notebooks/one", run)
    assert found["command"] == "papermill notebooks/one.md out.ipynb -p seeds 3"
    assert (found["run time"], found["finished"]) == ("12 s", "2026-01-02")
    assert found["commit"] == "0123456789 with changes"
    assert found["machine"] == "Linux x86_64, P, 2 cores, 4.0 GiB of memory"
    assert found["data fingerprint"] == cf.simulated("code", "authors", seed=0).fingerprint[:12]
    assert pages.data_fingerprint({"dataset": "ml-1m"}) == CATALOG["ml-1m"].fingerprint[:12]
    assert pages.data_fingerprint({"construction": "document"}) != found["data fingerprint"]
    assert pages.data_fingerprint({"dataset": "PATH"}) == "not known"

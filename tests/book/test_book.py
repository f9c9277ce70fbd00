"""Notebooks become pages: when they are run, what is shown, what fails; and the pages need no network."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from sphinx.errors import ExtensionError

from cfmtl_lib.experiments.book.notebooks import FINGERPRINT_KEY, TextNotebookHandler, code_fingerprint

ROOT = Path(__file__).parents[2]
NOTEBOOK = """\
# A chapter

A formula, $x^2$.

```{code-cell} ipython3
:tags: [parameters]
seeds = 2
```

```{code-cell} ipython3
import sys
print("progress", file=sys.stderr)
print(f"{seeds} seeds")
```
"""


def load_extension():
    spec = importlib.util.spec_from_file_location("notebook_pages", ROOT / "book/_ext/notebook_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = load_extension()


@pytest.fixture
def root(tmp_path):
    """A repository with one notebook, a library and published results."""
    for name, text in {
        "notebooks/one.md": NOTEBOOK,
        "cfmtl_lib/strata.py": "STRATA = 5\n",
        "cfmtl_lib/tables/table4.csv": "method,reward\n",
        "results/simulated/table4.csv": "method,reward\n",
        "results/simulated/table4.json": "{}\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def executed(monkeypatch):
    """Replaces the run in a process of its own; the list of names that were run."""
    names = []

    def execute(root, name, which):
        names.append(name)
        run = jupytext.read(root / "notebooks" / f"{name}.md")
        run.metadata.update(
            {"papermill": {"end_time": "now"}, FINGERPRINT_KEY: {"fingerprint": code_fingerprint(root)}}
        )
        for stream in ("stderr", "stdout"):
            run.cells[-1].outputs.append(nbformat.v4.new_output("stream", name=stream, text=f"on {stream}"))
        return run

    monkeypatch.setattr(pages, "execute", execute)
    return names


def make(root):
    return pages.make_pages(root, ["one"], root / "book/notebooks")


def page(root):
    return root / "book/notebooks/one.ipynb"


def test_notebook_runs_once_and_its_stderr_is_not_shown(root, executed):
    assert make(root) == ["one"]
    text = page(root).read_text(encoding="utf-8")
    assert "on stdout" in text
    assert "on stderr" not in text
    before = page(root).stat().st_mtime_ns
    assert make(root) == []
    assert page(root).stat().st_mtime_ns == before
    assert executed == ["one"]


@pytest.mark.parametrize(
    "changed",
    [
        "cfmtl_lib/strata.py",
        "cfmtl_lib/tables/table4.csv",
        "results/simulated/table4.csv",
        "results/simulated/table4.json",
        "cfmtl_lib/datasets/new.py",
    ],
)
def test_change_of_library_or_results_runs_again(root, executed, changed):
    make(root)
    (root / changed).parent.mkdir(exist_ok=True)
    with (root / changed).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert make(root) == ["one"]


def test_change_of_code_runs_again_and_of_prose_does_not(root, executed):
    make(root)
    notebook = root / "notebooks/one.md"
    notebook.write_text(NOTEBOOK.replace("A chapter", "Another title"), encoding="utf-8")
    assert make(root) == []
    assert "Another title" in page(root).read_text(encoding="utf-8")
    notebook.write_text(NOTEBOOK.replace("seeds = 2", "seeds = 3"), encoding="utf-8")
    assert make(root) == ["one"]


def test_run_with_own_parameters_stays_until_the_code_changes_and_is_not_lost_then(root, executed):
    make(root)
    run = nbformat.read(page(root), as_version=4)
    own = nbformat.v4.new_code_cell("seeds = 10", metadata={"tags": ["injected-parameters"]})
    run.cells.insert(2, own)
    nbformat.write(run, page(root))
    assert make(root) == []
    assert "seeds = 10" in page(root).read_text(encoding="utf-8")
    (root / "cfmtl_lib/strata.py").write_text("STRATA = 6\n", encoding="utf-8")
    assert make(root) == ["one"]
    (kept,) = (root / "_build/earlier_runs").iterdir()
    assert "seeds = 10" in kept.read_text(encoding="utf-8")


def test_failing_notebook_fails_every_time_and_leaves_no_page(root):
    broken = NOTEBOOK.replace('print("progress", file=sys.stderr)', 'raise ValueError("as it should")')
    (root / "notebooks/one.md").write_text(broken, encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ExtensionError, match=r"(?s)notebooks/one\.md failed:.*ValueError: as it should"):
            make(root)
        assert not page(root).exists()


def test_missing_notebook_is_named(root):
    with pytest.raises(ExtensionError, match=r"expected notebooks/two\.md, found no such file"):
        pages.make_pages(root, ["one", "two"], root / "book/notebooks")


def test_chapters_are_the_notebooks_of_the_table_of_contents(tmp_path):
    toc = tmp_path / "_toc.yml"
    toc.write_text(
        "format: jb-book\nroot: index\nparts:\n- chapters:\n  - file: notebooks/b\n    sections:\n"
        "    - file: notebooks/a\n  - file: api\n",
        encoding="utf-8",
    )
    assert pages.chapters(toc) == ["b", "a"]


def test_handler_converts_text_notebooks_only(root):
    notebook = nbformat.reads(TextNotebookHandler.read(str(root / "notebooks/one.md")), as_version=4)
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code", "code"]
    assert notebook.cells[1].metadata["tags"] == ["parameters"]
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata[FINGERPRINT_KEY]["fingerprint"] == code_fingerprint(root)
    target = str(root / "notebooks/copy.ipynb")
    TextNotebookHandler.write("{}", target)
    assert TextNotebookHandler.read(target) == "{}"
    assert target in TextNotebookHandler.listdir(str(root / "notebooks"))
    with pytest.raises(FileNotFoundError):
        TextNotebookHandler.read(str(root / "notebooks/none.md"))


def test_papermill_reads_text_notebooks_with_parameters(root):
    command = [sys.executable, "-m", "papermill", "notebooks/one.md", "out.ipynb", "-p", "seeds", "7"]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "does not end in one of" not in done.stderr
    run = nbformat.read(root / "out.ipynb", as_version=4)
    assert {o.name: o.text for o in run.cells[-1].outputs} == {"stdout": "7 seeds\n", "stderr": "progress\n"}


@pytest.mark.parametrize(
    ("html", "fetched"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<img src="//cdn.example/x.png">', ["//cdn.example/x.png"]),
        ('<link rel="stylesheet" href="http://cdn.example/x.css">', ["http://cdn.example/x.css"]),
        ('<a href="https://doi.org/x">x</a><link rel="canonical" href="https://x"><img src="x.png">', []),
    ],
)
def test_what_counts_as_a_request(html, fetched):
    assert pages.network_requests(html) == fetched


def test_book_builds_without_warnings_and_its_pages_need_no_network(root):
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n- file: notebooks/one\n", encoding="utf-8"
    )
    for name in ("_ext", "assets", "references.bib", "_toc.yml"):
        copy = shutil.copytree if (ROOT / "book" / name).is_dir() else shutil.copy
        copy(ROOT / "book" / name, root / "book" / name)
    (root / "book/index.md").write_text("# A book\n\nA formula, $x^2$.\n", encoding="utf-8")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book/", "-W", "--keep-going"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = root / "_build/html"
    chapter = (built / "notebooks/one.html").read_text(encoding="utf-8")
    assert "2 seeds" in chapter
    assert "progress</" not in chapter
    assert (built / "_static/mathjax/tex-svg-full.js").stat().st_size > 2_000_000
    for path in built.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        assert pages.network_requests(html) == [], path.name
        if path.stem in ("index", "one"):
            assert re.search(r'src="(\.\./)?_static/mathjax/tex-svg-full\.js', html), path.name
    for path in built.rglob("*.css"):
        remote = re.findall(
            r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']*", path.read_text(encoding="utf-8")
        )
        assert remote == [], path.name

"""Executed notebooks for the book: notebooks/NAME.md -> book/notebooks/NAME.ipynb.

papermill runs each notebook that the top-level ``_toc.yml`` names when there is no run of the same code yet.
It uses the notebook's own (small) parameters. The code is the notebook's code cells, the library, and the
published results (``cfmtl_lib.experiments.book.notebooks.code_fingerprint``). The command is the one that
a reader types, from the repository root. So a run with other parameters makes a page too, and stays until
the code changes: ``papermill notebooks/NAME.md book/notebooks/NAME.ipynb -p seeds 10``.

A notebook that fails leaves no run behind. It fails this build and every later one, until it is fixed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging

from cfmtl_lib.experiments.book.notebooks import FINGERPRINT_KEY, code_fingerprint

log = logging.getLogger(__name__)

CELL_TIMEOUT = 1800
"""Seconds that one cell may take: far above any default run, so that only a hang is cut off."""

AT_ONCE = 2
"""Notebooks that run side by side, each in its own process (two cores is what we count on)."""


def chapters(toc: Path) -> list[str]:
    """List the notebooks, in order, to which the table of contents refers (``file: notebooks/NAME``)."""

    def files(entry: object) -> Iterator[str]:
        if isinstance(entry, dict):
            for key, value in entry.items():
                if key == "file" and str(value).startswith("notebooks/"):
                    yield str(value).removeprefix("notebooks/")
                else:
                    yield from files(value)
        elif isinstance(entry, list):
            for value in entry:
                yield from files(value)

    return list(files(yaml.safe_load(toc.read_text(encoding="utf-8"))))


def tagged(cell: Any, tag: str) -> bool:
    """Check whether ``cell`` carries ``tag``."""
    return tag in cell.metadata.get("tags", [])


def code_cells(notebook: Any) -> list[Any]:
    """List the author's code cells, i.e. without the one in which papermill sets parameters."""
    return [c for c in notebook.cells if c.cell_type == "code" and not tagged(c, "injected-parameters")]


def usable(run: Any, notebook: Any, fingerprint: str) -> bool:
    """Check whether ``run`` ended without an error, on the present code."""
    return (
        bool(run.metadata.get("papermill", {}).get("end_time"))
        and run.metadata.get(FINGERPRINT_KEY, {}).get("fingerprint") == fingerprint
        and not any(output.output_type == "error" for cell in code_cells(run) for output in cell.outputs)
        and [cell.source for cell in code_cells(run)] == [cell.source for cell in code_cells(notebook)]
    )


def merge(run: Any, notebook: Any) -> Any:
    """Return the cells of ``notebook``, whose prose and tags may be newer, with the outputs of ``run``.

    Output to stderr (progress bars) is left out.
    """
    done = iter(code_cells(run))
    injected = [cell for cell in run.cells if tagged(cell, "injected-parameters")]
    cells = []
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext draws ids at random: equal runs should make equal files
        if cell.cell_type == "code":
            old = next(done)
            cell.execution_count = old.execution_count
            cell.outputs = [output for output in old.outputs if output.get("name") != "stderr"]
        cells.append(cell)
        if tagged(cell, "parameters"):
            cells += injected
    return nbformat.v4.new_notebook(cells=cells, metadata=run.metadata)


def write_atomically(target: Path, text: str) -> None:
    """Write ``text`` so that ``target`` is never half a file; change nothing if it holds ``text`` already."""
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return  # a new modification time would have Sphinx read the page again
    draft = target.with_suffix(".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, target)


def failure(run: Path, stderr: str, lines: int = 25) -> str:
    """Return the last lines of the failing cell's traceback, or of what papermill said if no cell failed."""
    trace = stderr
    if run.exists():
        for cell in code_cells(nbformat.read(run, as_version=4)):
            for output in cell.outputs:
                if output.output_type == "error":
                    trace = "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", trace).rstrip()
    return "\n".join(plain.splitlines()[-lines:])


def execute(root: Path, name: str, which: str) -> Any:
    """Run ``notebooks/NAME.md`` with its own parameters in a separate process, and return the run.

    Raises
    ------
    sphinx.errors.ExtensionError
        If a cell fails, or papermill does; the message ends with the tail of the traceback.
    """
    log.info("running %s (%s)", name, which)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, f"{name}.ipynb")
        command = [sys.executable, "-m", "papermill", f"notebooks/{name}.md", str(target)]
        options = ["--no-progress-bar", "--execution-timeout", str(CELL_TIMEOUT)]
        done = subprocess.run(
            command + options, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
        if done.returncode != 0:
            raise ExtensionError(f"notebooks/{name}.md failed:\n{failure(target, done.stderr)}")
        run = nbformat.read(target, as_version=4)
    run.metadata["papermill"].pop("output_path", None)  # a temporary folder of this machine
    log.info("%s took %.0f s", name, time.monotonic() - start)
    return run


def make_pages(root: Path, names: list[str], pages: Path) -> list[str]:
    """Bring ``pages/NAME.ipynb`` up to date for all ``names``, and return the names that had to be run.

    Parameters
    ----------
    root : Path
        Root of the repository: notebooks lie in ``root/notebooks`` and run in ``root``.
    names : list of str
        Notebooks to show, without folder and suffix.
    pages : Path
        Folder for the executed notebooks.

    Raises
    ------
    sphinx.errors.ExtensionError
        If a notebook is missing or fails. The others are run, and kept, all the same.
    """
    sources = {name: root / "notebooks" / f"{name}.md" for name in names}
    for name, source in sources.items():
        if not source.is_file():
            raise ExtensionError(
                f"_toc.yml: expected notebooks/{name}.md, found no such file. "
                "Mend the entry, or add the notebook."
            )
    pages.mkdir(parents=True, exist_ok=True)
    fingerprint = code_fingerprint(root)
    runs: dict[str, Any] = {}
    for name, source in sources.items():
        page = pages / f"{name}.ipynb"
        run = nbformat.read(page, as_version=4) if page.exists() else None
        if run is not None and usable(run, jupytext.read(source), fingerprint):
            runs[name] = run
        elif run is not None and any(tagged(cell, "injected-parameters") for cell in run.cells):
            set_aside(page, root / "_build" / "earlier_runs")
    stale = [name for name in names if name not in runs]
    failures = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = {
            name: pool.submit(execute, root, name, f"{number} of {len(stale)}")
            for number, name in enumerate(stale, 1)
        }
        for name, job in jobs.items():
            try:
                runs[name] = job.result()
            except ExtensionError as error:
                failures.append(str(error))
    for name, run in runs.items():
        text = nbformat.writes(merge(run, jupytext.read(sources[name])))
        write_atomically(pages / f"{name}.ipynb", text)
    if failures:
        raise ExtensionError("\n\n".join(failures))
    return stale


def set_aside(page: Path, folder: Path) -> None:
    """Move a run with the reader's parameters, perhaps hours of work, to a folder where it is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{page.stem}-{time.strftime('%Y%m%dT%H%M%S')}.ipynb"
    os.replace(page, target)
    log.info("%s is a run of other code: moved to %s", page.name, target)


def prepare(app: Sphinx, config: Config) -> None:
    """Point Sphinx to the top-level table of contents, and run what it names."""
    book = Path(app.srcdir)
    config.external_toc_path = str(book.parent / "_toc.yml")
    make_pages(book.parent, chapters(book.parent / "_toc.yml"), book / "notebooks")


def reread(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> set[str]:
    """Read all pages when a notebook changed: Sphinx does not see that a page takes numbers from one."""
    moved = any(name.startswith("notebooks/") for name in added | changed | removed)
    return set(env.found_docs) - added if moved else set()


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Leave out Jupyter Book's scripts that run cells on a server: no page offers it, and they clash."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{script.filename} {script.attributes}".lower()
    ]


def name_what_is_seen(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Correct two names that mislead a screen reader.

    A folded cell gets the text that is seen as its name, not "Toggle hidden content". The bibliography claims
    to be a list, but its entries are no items of a list.
    """
    if "body" in context:
        body = context["body"].replace('<summary aria-label="Toggle hidden content">', "<summary>")
        context["body"] = body.replace('<div role="list" class="citation-list"', '<div class="citation-list"')


def search_from_disk(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Let the search show excerpts, except from disk, where a page may not read another."""
    if page == "search":
        switch = "DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== 'file:';"
        app.add_js_file(None, body=switch, priority=900)


class _Requests(HTMLParser):
    """Collector of what a browser fetches from elsewhere when it opens a page (not of links to click)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the address if opening the page fetches it."""
        values = dict(attrs)
        address = values.get("href") if tag == "link" else values.get("src") or values.get("data")
        fetched = tag in {"script", "img", "iframe", "embed", "object", "source", "video", "audio"} or (
            tag == "link" and (values.get("rel") or "") not in {"canonical", "author", "license"}
        )
        if fetched and address and re.match(r"(https?:)?//", address):
            self.found.append(address)


def network_requests(html: str) -> list[str]:
    """Return the addresses on other machines that opening a page with this source would fetch."""
    parser = _Requests()
    parser.feed(html)
    return parser.found


def check_offline(app: Sphinx, exception: Exception | None) -> None:
    """Warn of each page that would fetch something, because the book must be readable without a network."""
    if exception is None and app.builder.format == "html":
        for page in sorted(Path(app.outdir).rglob("*.html")):
            for address in sorted(set(network_requests(page.read_text(encoding="utf-8")))):
                log.warning("%s fetches %s: put the file into book/assets", page.name, address)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("config-inited", prepare, priority=100)  # before sphinx_external_toc, at 900
    app.connect("env-get-outdated", reread)
    app.connect("html-page-context", drop_thebe, priority=900)  # after those that add scripts
    app.connect("html-page-context", name_what_is_seen)
    app.connect("html-page-context", search_from_disk)
    app.connect("build-finished", check_offline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Numbers of results/ on prose pages, each with a way back to its file, command and commit.

The role ``{result}`` prints the number of a name (``cfmtl_lib.experiments.book.published_numbers.facts``) as
a link to its file on the provenance page. The directives ``printed-numbers``, ``provenance``,
``notebook-status`` and ``ranking-figure`` print what is computed while the book is built. Each page depends
on the files that it quotes, so it is written again when one of them changes. Every page made from a notebook
ends with the command, commit and time of its run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import nbformat
import pandas as pd
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

import cfmtl_lib as cf
from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.experiments.book import published_numbers
from cfmtl_lib.experiments.book.notebooks import FINGERPRINT_KEY
from cfmtl_lib.experiments.paper import comparison
from cfmtl_lib.protocol import CONSTRUCTIONS, LABELLINGS
from cfmtl_lib.runtime.provenance import load_results, provenance_table

log = logging.getLogger(__name__)
facts = cache(published_numbers.facts)
judged = cache(comparison.verdicts)

Cell: TypeAlias = str | list[nodes.Node]

PROVENANCE_PAGE = "provenance"
"""Document with the directive ``provenance``, to which all links to results lead."""


def results_root(env: Any) -> Path:
    """Return the folder of the published results."""
    return Path(env.srcdir).parent / "results"


def label_of(table: str) -> str:
    """Make the label of a results file on the provenance page, from e.g. ``ml-1m/table4.csv``."""
    return nodes.make_id(f"results {table.removesuffix('.csv')}")


def link_to(table: str, text: str, *classes: str) -> nodes.inline:
    """Make a link to the provenance of a results file."""
    link = addnodes.pending_xref(
        "", refdomain="std", reftype="ref", reftarget=label_of(table), refexplicit=True, refwarn=True
    )
    link += nodes.inline(text, text)
    return nodes.inline("", "", link, classes=["result", *classes])


class ResultRole(SphinxRole):
    """Role ``{result}`name` ``: a number with a link to its provenance."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link, or a warning that lists the names there are."""
        root = results_root(self.env)
        known = facts(root)
        if self.text not in known:
            message = f"result: expected one of {', '.join(sorted(known))}, found {self.text!r}"
            return [], [self.inliner.reporter.warning(message, line=self.lineno)]
        fact = known[self.text]
        for suffix in (".csv", ".json"):
            self.env.note_dependency(str((root / fact.source).with_suffix(suffix)))
        return [link_to(fact.source, fact.text, f"result-{self.text}")], []


def table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], numeric: Sequence[int] = ()) -> nodes.table:
    """Build a table of texts and nodes; the columns ``numeric`` are aligned to the right."""
    group = nodes.tgroup(cols=len(headers))
    group += [nodes.colspec(colwidth=1) for _ in headers]
    for parent, lines in ((nodes.thead(), [headers]), (nodes.tbody(), rows)):
        for line in lines:
            row = nodes.row()
            for k, cell in enumerate(line):
                entry = nodes.entry(classes=["text-right"] if k in numeric else [])
                content = [nodes.Text(cell)] if isinstance(cell, str) else cell
                entry += nodes.paragraph("", "", *content)
                row += entry
            parent += row
        group += parent
    return nodes.table("", group, classes=["results-table"])


def section(title: str, label: str, *content: nodes.Node) -> nodes.section:
    """Build a section with a heading and an id."""
    return nodes.section("", nodes.title(title, title), *content, ids=[label])


def literal(text: str) -> nodes.literal_block:
    """Build a block of commands."""
    return nodes.literal_block(text, text, language="bash")


class PrintedNumbers(SphinxDirective):
    """Directive: every printed reward with ours and a verdict, a section for each table and dataset."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        root = results_root(self.env)
        numbers = judged(root)
        for name in set(numbers["file"]) - {""}:
            self.env.note_dependency(str(root / name))
        parts = []
        # What could be compared comes first.
        numbers = numbers.assign(missing=numbers["verdict"] == comparison.NO_DATA)
        groups = numbers.sort_values(["missing", "table"], kind="stable").groupby(
            ["table", "dataset"], sort=False
        )
        for (number, dataset), rows in groups:
            title = f"Table {number}, {CATALOG[str(dataset)].title}"
            parts.append(section(title, nodes.make_id(title), *self.body(rows)))
        return list(parts)

    @staticmethod
    def body(rows: pd.DataFrame) -> Iterator[nodes.Node]:
        """Build the command, then either the comparison or the printed numbers alone."""
        yield literal(rows["command"].iloc[0])
        here = rows["verdict"].iloc[0] != comparison.NO_DATA
        headers = ["scenario", "row", "printed"]
        headers += ["ours, mean ± sd", "seeds", "difference", "tolerance", "verdict"] if here else ["verdict"]
        lines: list[list[Cell]] = []
        for row in rows.to_dict("records"):
            line: list[Cell] = [row["scenario"], row["row"], f"{row['printed']:,.0f}"]
            if here:
                identified = not row["verdict"].startswith("not identified")
                line += [
                    [link_to(row["file"], f"{row['mean']:,.0f} ± {row['sd']:,.0f}")],
                    f"{row['seeds']:.0f}",
                    f"{row['percent']:+.1f} %".replace("-", "−"),
                    f"{comparison.TOLERANCE:g} %" if identified else "range of seeds",
                ]
            lines.append([*line, row["verdict"]])
        yield table(headers, lines, numeric=range(2, 6) if here else [2])


class Provenance(SphinxDirective):
    """Directive: every file of results/ with its provenance, a download, and a label for links to it."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each folder, with a section for each file."""
        root = results_root(self.env)
        domain: Any = self.env.get_domain("std")
        folders: dict[str, nodes.section] = {}
        for note in sorted(root.rglob("*.json")):
            path = note.with_suffix(".csv")
            name = path.relative_to(root).as_posix()
            for file in (note, path):
                self.env.note_dependency(str(file))
            _, record = load_results(path.parent, path.stem)
            label = label_of(name)
            domain.note_hyperlink_target(label, self.env.docname, label, name)
            downloads = nodes.paragraph()
            for file in (path, note):
                target = f"/../results/{file.relative_to(root).as_posix()}"
                download = addnodes.download_reference("", refdoc=self.env.docname, reftarget=target)
                download += nodes.literal(file.name, file.name)
                downloads += [download, nodes.Text("  ")]
            told = {key: value for key, value in record.items() if key not in ("table", "rewards")}
            # Commands must come out as they are to be typed: not with the typographer's dashes and quotes.
            lines: list[list[Cell]] = [
                [str(fact).replace("_", " "), [nodes.literal(value, value)] if fact == "command" else value]
                for fact, value in provenance_table(told)["value"].astype(str).items()
            ]
            folder = path.parent.name
            if folder not in folders:
                title = CATALOG[folder].title if folder in CATALOG else folder.replace("_", " ").capitalize()
                folders[folder] = section(title, nodes.make_id(f"results of {folder}"))
            folders[folder] += section(name, label, downloads, table(["fact", "value"], lines))
        return list(folders.values())


def pages_of(env: Any) -> Iterator[tuple[str, Any]]:
    """Find the document name and run of each page made from a notebook, in the book's order."""
    for path in sorted(Path(env.srcdir, "notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.stem}"
        if name in env.found_docs:
            yield name, nbformat.read(path, as_version=4)


def run_facts(name: str, run: Any) -> dict[str, str]:
    """Describe a run: command, time, data, commit, versions, machine."""
    record, papermill = run.metadata.get(FINGERPRINT_KEY, {}), run.metadata.get("papermill", {})
    given = " ".join(f"-p {key} {value}" for key, value in papermill.get("parameters", {}).items())
    commit = record.get("commit")
    changed = "" if record.get("commit_is_clean") else " with changes"
    return {
        "command": f"papermill {name}.md out.ipynb {given}".strip(),
        "parameters": given or "defaults",
        "run time": f"{papermill.get('duration') or 0:.0f} s",
        "data fingerprint": data_fingerprint(papermill.get("parameters", {})),
        "commit": f"{commit[:10]}{changed}" if commit else "not from a checkout",
        "versions": ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items()),
        "machine": machine_text(record.get("machine", {})),
        "finished": str(papermill.get("end_time", ""))[:10],
    }


def machine_text(machine: dict[str, Any]) -> str:
    """Describe a machine in one line."""
    if not machine:
        return "unknown machine"
    kind = f"{machine['system']} {machine['architecture']}, {machine['processor']}"
    return f"{kind}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory"


@cache
def _simulated_fingerprint(labelling: str, construction: str) -> str:
    return cf.simulated(labelling, construction, seed=0).fingerprint


def data_fingerprint(parameters: dict[str, Any]) -> str:
    """Compute the fingerprint of the data that a run reads; for simulated data that of seed 0."""
    dataset = parameters.get("dataset", "simulated")
    if dataset != "simulated":
        known_as = CATALOG[dataset].fingerprint if dataset in CATALOG else None
        return known_as[:12] if known_as else "not known"
    names = (parameters.get("labelling", "code"), parameters.get("construction", "both"))
    known = ((LABELLINGS, names[0]), (CONSTRUCTIONS, names[1]))
    return _simulated_fingerprint(*(name if name in names_ else names_[0] for names_, name in known))[:12]


class NotebookStatus(SphinxDirective):
    """Directive: run time, data, commit, versions and machine of each notebook page."""

    def run(self) -> list[nodes.Node]:
        """Return a table, and the versions and machines below it."""
        shown = ("run time", "data fingerprint", "commit", "finished", "parameters")
        lines: list[list[Cell]] = []
        kinds: dict[tuple[str, str], list[str]] = {}
        for name, run in pages_of(self.env):
            self.env.note_dependency(f"{name}.ipynb")
            found = run_facts(name, run)
            link = addnodes.pending_xref(
                "", refdomain="std", reftype="doc", reftarget=f"/{name}", refexplicit=False, refwarn=True
            )
            link += nodes.inline(name, name)
            lines.append([[link], *(found[key] for key in shown)])
            kinds.setdefault((found["versions"], found["machine"]), []).append(name.split("/")[1])
        made: list[nodes.Node] = [table(["page", *shown], lines, numeric=[1])]
        for (versions, machine), names in kinds.items():
            which = "All pages" if len(kinds) == 1 else ", ".join(names)
            made.append(nodes.paragraph("", f"{which}: {versions}; {machine}."))
        return made


class RankingFigure(SphinxDirective):
    """Directive: ranks of the methods in Table 4's settings on MovieLens 1M."""

    def run(self) -> list[nodes.Node]:
        """Return the picture, with its text alternative and its provenance."""
        root = results_root(self.env)
        self.env.note_dependency(str(root / "ml-1m" / "table4.csv"))
        shown = comparison.ranking(root)
        caption = nodes.paragraph(
            "", "Order of the methods on MovieLens 1M; ", link_to("ml-1m/table4.csv", "source")
        )
        caption += nodes.Text(".")
        return [nodes.raw("", shown._repr_html_(), format="html"), caption]


def add_how_made(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """End each page that was made from a notebook with the command, commit and time of its run."""
    if not docname.startswith("notebooks/") or "status" not in app.env.found_docs:
        return
    run = nbformat.read(Path(app.srcdir, f"{docname}.ipynb"), as_version=4)
    found = run_facts(docname, run)
    line = nodes.paragraph(classes=["how-made"])
    uri = {page: app.builder.get_relative_uri(docname, page) for page in ("status", PROVENANCE_PAGE)}
    line += [
        nodes.Text("This page was made by "),
        nodes.literal(found["command"], found["command"]),
        nodes.Text(f" from commit {found['commit']} in {found['run time']}. "),
        nodes.reference("", "All pages", internal=True, refuri=uri["status"]),
        nodes.Text(" · "),
        nodes.reference("", "All results", internal=True, refuri=uri[PROVENANCE_PAGE]),
    ]
    last = doctree.children[-1]
    (last if isinstance(last, nodes.section) else doctree).append(line)


def forget(app: Sphinx) -> None:
    """Read results anew in each build."""
    for kept in (facts, judged, _simulated_fingerprint):
        kept.cache_clear()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.add_role("result", ResultRole())
    for name, directive in {
        "printed-numbers": PrintedNumbers,
        "provenance": Provenance,
        "notebook-status": NotebookStatus,
        "ranking-figure": RankingFigure,
    }.items():
        app.add_directive(name, directive)
    app.connect("builder-inited", forget)
    app.connect("doctree-resolved", add_how_made)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

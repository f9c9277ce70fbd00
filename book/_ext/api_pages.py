"""Sphinx extension: the API reference of a folder of the library, from whatever modules are there."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import cfmtl_lib

LIBRARY = Path(cfmtl_lib.__file__).parent
ROUTED = ("fit", "inverse_transform", "predict", "predict_proba", "score", "transform")
NOT_OURS = ", ".join(f"set_{method}_request" for method in ROUTED)
"""Methods that scikit-learn adds to every estimator."""


def modules_of(folder: str, first: list[str], without: list[str]) -> list[str]:
    """List the modules of a folder of the library, by their full names.

    Parameters
    ----------
    folder : str
        Name below ``cfmtl_lib``, with dots; empty for the top of the library.
    first : list of str
        Names of modules to begin with; the others follow in the order of the alphabet.
    without : list of str
        Names of modules to leave out.
    """
    here = LIBRARY.joinpath(*folder.split(".")) if folder else LIBRARY
    found = {path.stem for path in here.glob("*.py")} - {"__init__", *first, *without}
    names = [*first, *sorted(found)]
    return [".".join(part for part in ("cfmtl_lib", folder, name) if part) for name in names]


class ApiModules(SphinxDirective):
    """Directive: documentation of every module of a folder, ``.. api-modules:: value``.

    The option ``first`` names modules to begin with, ``without`` those that are of no use to readers.
    """

    optional_arguments = 1
    option_spec = dict.fromkeys(("first", "without"), directives.unchanged)

    def run(self) -> list[nodes.Node]:
        """Return what ``automodule`` makes of each module."""
        folder = self.arguments[0] if self.arguments else ""
        lines = []
        first, without = (self.options.get(name, "").split() for name in ("first", "without"))
        for module in modules_of(folder, first, without):
            lines += [f".. automodule:: {module}", "   :members:", f"   :exclude-members: {NOT_OURS}", ""]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.env.docname), self.content_offset, node)
        return list(node.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.add_directive("api-modules", ApiModules)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

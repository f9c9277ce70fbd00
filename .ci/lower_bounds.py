"""Print constraints that hold every dependency of the library at its lower bound.

The bounds are those of ``pyproject.toml``: the dependencies and the extra ``fast``. What only tests and the
book need keeps the version of ``constraints.txt``, since it is no part of what users install.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("polars", "pytest", "pytest-xdist")
"""What the tests run with; style and types are checked elsewhere."""


def lower_bound(requirement: Requirement) -> str:
    """Return the version of ``>=`` in a requirement."""
    return next(one.version for one in requirement.specifier if one.operator == ">=")


def constraints(root: Path = ROOT) -> list[str]:
    """List ``NAME==VERSION`` for the dependencies at their bounds, then for what tests and book need."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    users = [Requirement(line) for line in (*project["dependencies"], *extras["fast"])]
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.split("==")[0]): line for line in lines if line[:1].isalpha()}
    others = [*TOOLS, *(Requirement(line).name for line in extras["book"])]
    return [
        *(f"{one.name}=={lower_bound(one)}" for one in users),
        *(pins[canonicalize_name(name)] for name in others),
    ]


if __name__ == "__main__":
    print("\n".join(constraints()))

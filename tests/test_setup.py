"""The files that describe the set-up agree with one another and with what is installed."""

import importlib.metadata
import importlib.util
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import cfmtl_lib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]
EVERYWHERE = [
    Requirement(line) for group in (PROJECT["dependencies"], EXTRAS["book"], EXTRAS["test"]) for line in group
]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "constraints.txt: expected NAME==VERSION on each line"
    assert len({canonicalize_name(name) for name, _ in pairs}) == len(pairs), "a package is pinned twice"
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def installed():
    """Version of every package that the project with its extras brings in on this machine."""
    found, todo, done = {}, list(EVERYWHERE), set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in done:
            continue
        done.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        found[key[0]] = Version(distribution.version)
        for line in distribution.requires or []:
            needed = Requirement(line)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    return found


@pytest.mark.pinned
def test_constraints_pin_every_installed_package_at_its_version():
    expected = {name: Version(version.public) for name, version in installed().items()}
    pinned = pins()
    assert len(expected) > 100
    assert {name: pinned.get(name) for name in expected} == expected


def test_lower_bounds_admit_the_pins():
    pinned = pins()
    for requirement in REQUIREMENTS:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, str(requirement)


def test_conda_environment_takes_its_versions_from_the_constraints_alone():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    conda = [entry for entry in dependencies if isinstance(entry, str)]
    assert [re.split("[=<>]", entry)[0] for entry in conda] == ["python", "pip"]
    python = next(entry.removeprefix("python=") for entry in conda if entry.startswith("python="))
    assert any(line.endswith(f":: {python}") for line in PROJECT["classifiers"])
    assert dependencies[-1] == {"pip": ["-c constraints.txt", "-e .[book,test]"]}
    assert set(EXTRAS) == {"book", "fast", "test", "compare", "browser", "cases", "baselines"}


def test_contributing_gives_a_reason_for_each_dependency():
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Dependencies")[1]
    listed = re.findall(r"^\| ([\w-]+) \| \S", section.replace("| package | why |", ""), flags=re.MULTILINE)
    assert listed == [requirement.name for requirement in REQUIREMENTS]


def test_one_version_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    latest = re.search(r"^## \[(\d[^\]]*)\] - (\S+)$", changelog, flags=re.MULTILINE)
    assert latest is not None
    assert cfmtl_lib.__version__ == PROJECT["version"] == citation["version"] == latest[1]
    assert str(citation["date-released"]) == latest[2]


def workflow():
    """The jobs of the host's workflow, with the commands that each runs."""
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    return jobs, runs


def test_hosts_run_what_every_machine_runs():
    """The workflow has no commands of its own: those of .ci/run, with each Python, and the lower bounds."""
    jobs, runs = workflow()
    assert runs == {"everything": [".ci/run"], "lower-bounds": [".ci/run_lower_bounds"]}
    for (command,) in runs.values():
        assert os.access(ROOT / command, os.X_OK), command
    versions = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert jobs["everything"]["strategy"]["matrix"]["python"] == versions
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert jobs["everything"]["env"]["PYTHON"] == "python${{ matrix.python }}"
    assert jobs["lower-bounds"]["env"]["PYTHON"] == f"python{versions[0]}"
    assert "\nPYTHON ?= " in (ROOT / "Makefile").read_text(encoding="utf-8")
    for job, wanted in (("everything", "${{ matrix.python }}"), ("lower-bounds", versions[0])):
        (setup,) = (step["with"] for step in jobs[job]["steps"] if "setup-python" in step.get("uses", ""))
        assert setup["python-version"] == wanted
        assert jobs[job]["runs-on"].startswith("ubuntu-")


def test_lower_bounds_are_those_of_the_project(tmp_path):
    spec = importlib.util.spec_from_file_location("lower_bounds", ROOT / ".ci/lower_bounds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    held = dict(line.split("==") for line in module.constraints())
    users = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["fast"])]
    for requirement in users:
        (least,) = (one.version for one in requirement.specifier if one.operator == ">=")
        assert held.pop(requirement.name) == least, requirement.name
    tools = {canonicalize_name(name) for name in (*module.TOOLS, *names_of("book"))}
    assert {canonicalize_name(name): Version(version) for name, version in held.items()} == {
        name: pins()[name] for name in tools
    }
    command = (ROOT / ".ci/run_lower_bounds").read_text(encoding="utf-8")
    assert f'-e ".[book,fast]" {" ".join(module.TOOLS)}\n' in command


def names_of(extra):
    return [Requirement(line).name for line in EXTRAS[extra]]

"""The structure of CONTRIBUTING.md: imports between folders run one way, and files and folders stay small."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "cfmtl_lib"
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py")
FOLDERS = sorted(path.parent for path in LIBRARY.rglob("__init__.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)


def part_of(module: str) -> str:
    """The folder of a module, or the module itself at the top of the library."""
    return module.split(".")[0]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cfmtl_lib"):
            module = (node.module or "").removeprefix("cfmtl_lib").lstrip(".")
            inside = LIBRARY.joinpath(*module.split("."))
            submodules = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
            files = {n for n in submodules if LIBRARY.joinpath(*n.split(".")).with_suffix(".py").is_file()}
            found |= (files if inside.is_dir() else set()) or {module}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("cfmtl_lib.")
                for alias in node.names
                if alias.name.startswith("cfmtl_lib")
            }
    return found


ARROWS = {name_of(path): imports_of(path) for path in MODULES}


def test_no_module_imports_the_package_itself():
    assert not [name for name, needs in ARROWS.items() if "" in needs]


def test_no_circle_between_modules_or_folders():
    """TopologicalSorter raises CycleError, which names the circle."""
    TopologicalSorter(ARROWS).prepare()
    folders: dict[str, set[str]] = {}
    for name, needs in ARROWS.items():
        folders.setdefault(part_of(name), set()).update({part_of(n) for n in needs} - {part_of(name)})
    TopologicalSorter(folders).prepare()


def test_the_library_imports_no_experiments():
    for name, needs in ARROWS.items():
        if part_of(name) != "experiments":
            assert "experiments" not in {part_of(n) for n in needs}, name


def test_files_and_folders_stay_small():
    assert len(list(LIBRARY.glob("*.py"))) <= 5
    assert len([folder for folder in FOLDERS if folder.parent == LIBRARY]) <= 12
    for folder in FOLDERS:
        assert len(list(folder.glob("*.py"))) <= 12, folder
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, f"split {name_of(path)} in two"


def test_no_file_hides_a_public_name():
    """``cfmtl_lib/table4.py`` would make ``cf.table4`` a module, once somebody had imported it."""
    import cfmtl_lib as cf

    packages = {path.name for path in FOLDERS}
    assert not {path.stem for path in LIBRARY.glob("*.py")} & set(cf.__all__) - {"protocol", "strata"}
    assert all(not callable(getattr(cf, name)) for name in packages & set(cf.__all__))


def test_only_public_names_are_listed():
    import cfmtl_lib as cf

    assert dir(cf) == sorted(cf.__all__) and not [name for name in dir(cf) if name.startswith("_")]
    assert all(hasattr(cf, name) for name in cf.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        cf.no_such_name  # noqa: B018


def test_names_are_imported_when_they_are_needed_and_tables_stay_as_published():
    code = (
        "import sys, cfmtl_lib\n"
        "print([m for m in ('torch', 'skops', 'scipy.stats', 'matplotlib') if m in sys.modules])\n"
        "cfmtl_lib.CFMTL, cfmtl_lib.policy_value\n"
        "print([m for m in ('skops', 'matplotlib') if m in sys.modules])\n"
        "class Mine(cfmtl_lib.ORNet, method='Mine'): pass\n"
        "from cfmtl_lib.experiments.paper import tables  # imported after somebody's estimator\n"
        "print(len(tables.ROWS_OF_TABLE4))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["[]", "[]", "14"]


def test_every_folder_is_in_the_map_and_in_the_api_reference():
    contributing, api = (
        (LIBRARY.parent / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "book/api.md")
    )
    for folder in (".".join(path.relative_to(LIBRARY).parts) for path in FOLDERS):
        assert f".. api-modules:: {folder}".strip() + "\n" in api, folder
        assert not folder or f"`{folder.replace('.', '/')}/`" in contributing, folder


def test_torch_has_loaded_everything_before_threads_fit():
    """Its late imports parse source code, which two threads of CPython 3.11 cannot do at once."""
    code = (
        "import ast, threading, cfmtl_lib as cf\n"
        "parse = ast.parse\n"
        "def watched(*args, **kwargs):\n"
        "    assert threading.current_thread() is threading.main_thread(), 'parses in a thread'\n"
        "    return parse(*args, **kwargs)\n"
        "ast.parse = watched\n"
        "small = cf.simulated(n_users=30, n_items=30, n_pairs=800)\n"
        "cf.fit_methods(small, ['OR', 'CF-MTL'], n_jobs=2)\n"
        "from cfmtl_lib.experiments import studies\n"
        "studies.load_study = lambda *args, **kwargs: small\n"
        "cf.table4(seeds=2, construction='authors', methods=['OR'], n_jobs=2, progress=False)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

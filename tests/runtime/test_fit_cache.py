"""Kept fits: found again when nothing that matters changed, made anew when anything did."""

import ast
import dataclasses
import pickle

import joblib
import numpy as np
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.datasets.construction import ConstructionNetworks
from cfmtl_lib.datasets.loading import construction_networks, load_study
from cfmtl_lib.experiments.methods import fit_methods
from cfmtl_lib.models.config import History
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator
from cfmtl_lib.nuisances.moments import FAMILIES, MOMENTS
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances
from cfmtl_lib.runtime import files, fit_cache
from cfmtl_lib.runtime.fit_cache import FitCache, FitCacheWarning, content_hash, provenance_of_fits
from cfmtl_lib.runtime.threads import run_parallel

NAMES = ["CF-IPS", "DR-net", "CF-MTL", "CF-MTL-v1", "CF-MTL-v1 w/o L_001"]


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=40, n_items=30, n_pairs=900)


class Counted:
    """A function that counts its calls."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


def test_a_value_is_made_once_for_one_key(tmp_path):
    make = Counted([1, 2])
    for _ in range(2):
        cache = FitCache(tmp_path)
        assert cache(make, fit="a", seed=0) == [1, 2]
    assert make.calls == 1
    assert FitCache(tmp_path)(make, fit="a", seed=1) == FitCache(tmp_path)(make, fit="b", seed=0) == [1, 2]
    assert make.calls == 3


def test_without_a_folder_nothing_is_kept(tmp_path):
    make, cache = Counted(1), FitCache()
    assert (cache(make, fit="a"), cache(make, fit="a"), make.calls) == (1, 1, 2)
    assert not cache.keeps and FitCache(tmp_path).keeps


def test_an_error_is_not_kept(tmp_path):
    def fail():
        raise KeyboardInterrupt

    cache = FitCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache(fail, fit="a")
    assert cache(Counted(1), fit="a") == 1


def test_other_code_or_another_torch_means_another_fit(tmp_path, monkeypatch):
    make = Counted(1)
    FitCache(tmp_path)(make, fit="a")
    surroundings = fit_cache._surroundings()
    for name in ("code", "torch"):
        monkeypatch.setattr(fit_cache, "_surroundings", lambda name=name: surroundings | {name: "other"})
        FitCache(tmp_path)(make, fit="a")
    assert make.calls == 3


def test_docstrings_and_comments_are_no_code(tmp_path, monkeypatch):
    def digest(source):
        for name in fit_cache.CODE_OF_FITS:
            path = tmp_path / name if name.endswith(".py") else tmp_path / name / "deep" / "module.py"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(source, encoding="utf-8")
        monkeypatch.setattr(fit_cache, "__file__", str(tmp_path / "runtime" / "fit_cache.py"))
        return fit_cache._surroundings.__wrapped__()["code"]

    plain = digest("def f(x):\n    return x + 1\n")
    assert digest('"""Text."""\ndef f(x):\n    """More."""\n    return x + 1  # why\n') == plain
    assert digest("def f(x):\n    return x + 2\n") != plain


def test_all_code_that_fits_rest_on_is_looked_at():
    """What the fitting modules import, but for what only checks, names or reports."""
    folder = fit_cache.Path(fit_cache.__file__).parents[1]
    parts = [part.removesuffix(".py") for part in fit_cache.CODE_OF_FITS]
    for part in parts:
        for path in [*(folder / part).rglob("*.py"), *folder.glob(f"{part}.py")]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("cfmtl_lib."):
                    assert node.module.split(".")[1] in {*parts, "errors", "runtime"}, node.module


def test_the_hash_is_of_content():
    a = np.arange(6).reshape(2, 3)
    assert content_hash(a, "x") == content_hash(a.copy(), "x")
    for other in (a.T, a.astype(float), a + 1):
        assert content_hash(other, "x") != content_hash(a, "x")


def test_kept_fits_predict_the_same_bits_and_are_fitted_once(study, tmp_path, monkeypatch):
    plain = fit_methods(study, NAMES, device="cpu", seed=1)
    made = fit_methods(study, NAMES, device="cpu", seed=1, cache=FitCache(tmp_path))

    def never(*arguments, **options):
        raise AssertionError("a network was fitted")

    for module in (
        "nuisances.pair_nuisances.fit_probability",
        "estimators.cells.pair_cells.fit_probability",
        "estimators.cells.pair_cells.minimise",
    ):
        monkeypatch.setattr(f"cfmtl_lib.{module}", never)
    found = fit_methods(study, NAMES, device="cpu", seed=1, cache=FitCache(tmp_path))
    for name in NAMES:
        for scenario in cf.SCENARIOS:
            expected = plain[name].predict_reward(study.test.x, scenario, 0.4)
            for models in (made, found):
                np.testing.assert_array_equal(
                    models[name].predict_reward(study.test.x, scenario, 0.4), expected
                )
    with pytest.raises(AssertionError, match="a network was fitted"):
        fit_methods(study, ["CF-MTL"], device="cpu", seed=2, cache=FitCache(tmp_path))


def test_a_changed_log_is_fitted_anew(study, tmp_path):
    cache = FitCache(tmp_path)
    fit_methods(study, ["Naive", "CF-MTL"], device="cpu", cache=cache)
    log = study.train
    y = log.y.copy()
    y[np.flatnonzero((log.t == 1) & (log.c == 1))[0]] ^= 1
    other = cf.IncentiveLog(log.x, log.t, log.c, y, n_users=log.n_users, n_items=log.n_items)
    before = len(list(tmp_path.iterdir()))
    changed = cf.Study(**{**vars(study), "train": other})
    fit_methods(changed, ["Naive", "CF-MTL"], device="cpu", cache=cache)
    assert len(list(tmp_path.iterdir())) == before + 2


def test_provenance_names_the_commits_and_counts_each_fit_once(study, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_cache, "_commit_at_start", lambda: ("abc", False))
    fit_methods(study, ["OR", "CF-OR"], device="cpu", cache=FitCache(tmp_path))
    monkeypatch.setattr(fit_cache, "_commit_at_start", lambda: ("def", True))
    cache = FitCache(tmp_path)
    for _ in range(2):
        fit_methods(study, ["OR", "CF-OR", "Naive", "CF-MTL"], device="cpu", cache=cache)
    record = provenance_of_fits({name: origin._replace(seconds=1.5) for name, origin in cache.used.items()})
    assert record["fits"] == 4  # two outcomes, take-up, CF-MTL
    assert record["fit_commits"] == ["abc with changes", "def"]
    assert record["fit_seconds"] == 6.0


def test_a_cache_holds_no_fit_in_memory(study):
    cache = FitCache()
    fit_methods(study, ["Naive"], device="cpu", cache=cache)
    (origin,) = cache.used.values()
    assert origin._fields == ("seconds", "commit", "commit_is_clean", "engines")


def test_the_code_is_hashed_when_the_cache_is_made(tmp_path, monkeypatch):
    cache, make = FitCache(tmp_path), Counted(1)
    surroundings = fit_cache._surroundings()
    monkeypatch.setattr(fit_cache, "_surroundings", lambda: surroundings | {"code": "edited meanwhile"})
    cache(make, fit="a")
    monkeypatch.undo()
    FitCache(tmp_path)(make, fit="a")
    assert make.calls == 1


def stored(folder):
    """A stored fit of a small network, what it predicts, and a way to ask for it."""
    x = np.stack(np.divmod(np.arange(12), 3), axis=1)

    def make():
        network = AdditiveNetwork(4, 3, 1, generator=derive_generator(0, "n", torch.device("cpu")))
        return network, {"a": History([3.0, 1.5], True)}, np.arange(3)

    def ask():
        network, histories, array = FitCache(folder)(make, fit="a", device="cpu")
        return network.predict(x).tobytes(), histories, array.tolist()

    expected = ask()
    (path,) = folder.iterdir()
    return path, expected, ask


def test_a_stored_fit_comes_back_to_the_last_bit(tmp_path):
    _, expected, ask = stored(tmp_path)
    assert ask() == expected


@pytest.mark.parametrize("content", [b"", b"half", pickle.dumps({"a": 1})])
def test_a_damaged_file_is_fitted_again_with_a_warning(content, tmp_path):
    path, expected, ask = stored(tmp_path)
    whole = path.read_bytes()
    for damaged in (content, whole[:-1], whole[: len(whole) // 2], whole + b"0"):
        path.write_bytes(damaged)
        with pytest.warns(FitCacheWarning, match=f"{path.name} cannot be used, and is fitted again"):
            assert ask() == expected
        assert ask() == expected  # and stored again


def test_no_flipped_byte_changes_a_stored_fit(tmp_path):
    """Each of 150 flips is noticed, wherever it lies: in names, shapes, numbers, the digest."""
    path, expected, ask = stored(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.choice(len(whole), 150, replace=False):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(flipped))
        with pytest.warns(FitCacheWarning, match="cannot be used"):
            assert ask() == expected


def test_the_fit_of_another_key_is_not_taken(tmp_path):
    path, expected, ask = stored(tmp_path)
    FitCache(tmp_path)(Counted(5), fit="b")
    (other,) = set(tmp_path.iterdir()) - {path}
    other.replace(path)
    with pytest.warns(FitCacheWarning, match="found another fit"):
        assert ask() == expected


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    path, expected, ask = stored(tmp_path)
    joblib.dump(expected, path)
    for loading in (joblib, pickle, torch):
        monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.warns(FitCacheWarning):
        assert ask() == expected


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "denied")])
@pytest.mark.parametrize("place", ["replace", "write_bytes", "mkstemp"])
def test_a_full_or_protected_folder_stops_no_run(place, error, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise error

    owner = {"replace": files.os, "write_bytes": files.Path, "mkstemp": files.tempfile}[place]
    monkeypatch.setattr(owner, place, fails)
    make, cache = Counted([1, 2]), FitCache(tmp_path)
    with pytest.warns(FitCacheWarning, match=f"not stored in .*{error.strerror}.*The run goes on") as caught:
        assert [cache(make, fit="a"), cache(make, fit="a"), cache(make, fit="b")] == [[1, 2]] * 3
    assert len(caught) == 1 and make.calls == 3
    assert not list(tmp_path.iterdir())


def test_a_cache_that_is_a_file_or_cannot_be_read_stops_no_run(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.warns(FitCacheWarning, match="Fits are not stored"):
            assert FitCache(folder)(Counted(1), fit="a") == 1

    def denied(*arguments, **options):
        raise PermissionError(13, "denied")

    monkeypatch.setattr(fit_cache.Path, "is_file", denied)
    with pytest.warns(FitCacheWarning, match="cannot be used"):
        assert FitCache(tmp_path / "new")(Counted(1), fit="a") == 1


def test_a_value_of_another_kind_is_returned_and_not_stored(tmp_path):
    value = {"how": [lambda: 1]}
    with pytest.warns(FitCacheWarning, match="value/how/0: expected numbers"):
        assert FitCache(tmp_path)(lambda: value, fit="a") is value
    assert not list(tmp_path.iterdir())


def test_an_entry_appears_whole(tmp_path, monkeypatch):
    """Nothing is at its place before the rename."""
    seen, real = [], files.os.replace

    def looking(source, target):
        seen.append([path.suffix for path in tmp_path.iterdir()])
        real(source, target)

    monkeypatch.setattr(files.os, "replace", looking)
    FitCache(tmp_path)(Counted(1), fit="a")
    assert seen == [[".part"]]
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_threads_that_store_the_same_fit_do_not_mix(tmp_path):
    results = run_parallel([lambda: FitCache(tmp_path)(lambda: np.arange(50_000), fit="a")] * 8, 4)
    results.append(FitCache(tmp_path)(lambda: pytest.fail("made again"), fit="a"))
    assert all(np.array_equal(result, np.arange(50_000)) for result in results)
    assert len(list(tmp_path.iterdir())) == 1


def test_equal_words_of_other_types_are_one_key(tmp_path):
    """A version of torch is a subclass of str, which hashes otherwise."""
    assert all(type(value) is str for value in fit_cache._surroundings().values())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"config": dataclasses.replace(cf.PAPER.nuisance, patience_resets=True, max_epochs=300)},
        {"config": dataclasses.replace(cf.PAPER.nuisance, keep_last_batch=True)},
        {"propensity_clip": (0.2, 0.8)},
    ],
)
@pytest.mark.filterwarnings("ignore:.*max_epochs:sklearn.exceptions.ConvergenceWarning")
def test_every_setting_of_a_nuisance_is_in_its_key(study, tmp_path, change):
    def fitted(**options):
        nuisances = cf.PairNuisances(
            study.train,
            **({"config": cf.PAPER.nuisance, "propensity_clip": (0.1, 0.9), "device": "cpu"} | options),
            cache=FitCache(tmp_path),
        )
        nuisances.moment("IPS", "converted_treated")
        return {path.name for path in tmp_path.iterdir()}

    before = fitted()
    assert len(before) == 2
    added = fitted(**change) - before
    assert len(added) == (1 if "propensity_clip" in change else 2)  # the clip changes no propensity fit


def test_arm_moment_and_family_have_keys_of_their_own(study, tmp_path):
    nuisances = cf.PairNuisances(
        study.train,
        config=cf.PAPER.nuisance,
        propensity_clip=(0.1, 0.9),
        device="cpu",
        cache=FitCache(tmp_path),
    )
    for family in FAMILIES:
        for name in MOMENTS:
            nuisances.moment(family, name)
    assert len(list(tmp_path.iterdir())) == len(FAMILIES) * len(MOMENTS) + 1


@pytest.mark.filterwarnings("ignore:.*max_epochs:sklearn.exceptions.ConvergenceWarning")
def test_both_labellings_share_the_networks_of_a_construction(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(1200, 400, replace=False), 30)
    ratings = cf.Ratings(user, item, rng.integers(1, 6, 400), n_users=40, n_items=30)
    cache = FitCache(tmp_path)
    one = load_study(ratings, None, "code", "authors", 0, device="cpu", cache=cache)
    monkeypatch.setattr("cfmtl_lib.datasets.loading.fit_construction", None)
    other = load_study(ratings, None, "text", "authors", 0, device="cpu", cache=FitCache(tmp_path))
    np.testing.assert_array_equal(one.train.t, other.train.t)
    assert (one.test.stratum != other.test.stratum).any()
    monkeypatch.undo()
    networks = construction_networks(ratings, "authors", 0, device="cpu", cache=cache)
    plain = cf.semisynthetic(ratings, "text", "authors", 0, device="cpu")
    np.testing.assert_array_equal(plain.test.stratum, other.test.stratum)
    np.testing.assert_array_equal(plain.train.propensity, other.train.propensity)
    assert networks.labeller.embedding_k == 1 and isinstance(networks.assigner, FactorizationNetwork)


def test_everything_a_construction_depends_on_is_in_its_key(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "cfmtl_lib.datasets.loading.fit_construction",
        lambda *arguments, **options: (
            made.append(1)
            or ConstructionNetworks(
                AdditiveNetwork(2, 2, 1, generator=derive_generator(0, "n", torch.device("cpu"))), None
            )
        ),
    )
    user, item, rating = np.array([0, 1, 2, 3]), np.array([0, 1, 0, 1]), np.array([1, 5, 4, 3])

    def ask(order=(0, 1, 2, 3), construction="authors", seed=0, **options):
        order = list(order)
        ratings = cf.Ratings(
            user[order], item[order], rating[order], **({"n_users": 4, "n_items": 2} | options)
        )
        construction_networks(ratings, construction, seed, device="cpu", cache=FitCache(tmp_path))
        return len(made)

    assert ask() == ask() == 1
    for n, change in enumerate(
        (
            {"threshold": 4},
            {"n_users": 5},
            {"n_items": 3},
            {"order": (1, 0, 2, 3)},
            {"construction": "document"},
            {"seed": 1},
        ),
        start=2,
    ):
        assert ask(**change) == n, change


@pytest.mark.parametrize("n_outputs", [1, 5])
def test_the_compact_network_is_the_same_function(n_outputs):
    network = AdditiveNetwork(
        7, 5, 16, n_outputs, generator=derive_generator(0, "compact", torch.device("cpu"))
    )
    small = pickle.loads(pickle.dumps(network.compact()))
    x = np.stack(np.divmod(np.arange(35), 5), axis=1)
    np.testing.assert_array_equal(predict_probability(small, x), predict_probability(network, x))
    assert sum(p.numel() for p in small.parameters()) == 12 * n_outputs + 2 * n_outputs**2 + n_outputs


def test_fits_are_kept_by_the_kind_of_device(study):
    """A fit on an accelerator has other bits than the same on a CPU."""
    asked = []

    def recorder(make, **key):
        asked.append(key)
        return make()

    recorder.keeps = False
    PairNuisances(
        study.train, config=cf.PAPER.nuisance, propensity_clip=(0.1, 0.9), device="cpu", cache=recorder
    ).propensity_network()
    (key,) = asked
    assert set(key) == {"fit", "config", "engine", "seed", "device", "data"} and key["device"] == "cpu"


def test_a_fit_by_itself_asks_for_no_commit(study, monkeypatch):
    monkeypatch.setattr(fit_cache, "commit", lambda: pytest.fail("git was called"))
    fit_cache._commit_at_start.cache_clear()
    cf.CFOR(device="cpu").fit(study.train)
    fit_methods(study, ["OR", "CF-MTL-v1"], device="cpu")

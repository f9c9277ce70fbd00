"""Learners in files: what scikit-learn would follow blindly is looked at before anything is made."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, SplineTransformer, TargetEncoder
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier

from cfmtl_lib.deployment import learner_files
from cfmtl_lib.deployment.learner_files import learner_from_bytes, learner_to_bytes
from cfmtl_lib.errors import ModelFileError

RNG = np.random.default_rng(0)
X = np.column_stack([RNG.normal(size=(120, 2)), RNG.integers(0, 4, 120)])
Y = (X[:, 0] + (X[:, 2] == 1) + RNG.normal(size=120) > 0.5).astype(int)

BOOSTING = HistGradientBoostingClassifier(max_iter=3, max_leaf_nodes=5, categorical_features=[2])
LEARNERS = {
    "lines": LogisticRegression(),
    "ridge": Ridge(),
    "boosting": BOOSTING,
    "boosted numbers": HistGradientBoostingRegressor(max_iter=3),
    "tree": DecisionTreeClassifier(max_depth=3),
    "forest": RandomForestClassifier(3, max_depth=3, random_state=np.random.RandomState(1)),
    "random trees": ExtraTreesClassifier(2, max_leaf_nodes=4),
    "gradient boosting": GradientBoostingClassifier(n_estimators=3),
    "network": MLPClassifier((3,), max_iter=300, tol=0.1),
    "vectors": SVC(),
    "vectors of numbers": SVR(),
    "neighbours": KNeighborsClassifier(algorithm="brute"),
    "quantiles": make_pipeline(QuantileTransformer(n_quantiles=9), LogisticRegression()),
    "means of levels": make_pipeline(TargetEncoder(cv=2), LogisticRegression()),
    "calibrated": CalibratedClassifierCV(DecisionTreeClassifier(max_depth=2), method="isotonic", cv=2),
    "sigmoid": CalibratedClassifierCV(LogisticRegression(), method="sigmoid", cv=2, ensemble=False),
    "stacked": StackingClassifier(
        [("splines", make_pipeline(SplineTransformer(3), LogisticRegression())), ("trees", BOOSTING)],
        cv=2,
        stack_method="predict_proba",
    ),
    "vote": VotingClassifier([("a", LogisticRegression()), ("b", BOOSTING)], voting="soft"),
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_comes_back_with_the_same_predictions(name):
    learner = LEARNERS[name].fit(X, Y)
    found = learner_from_bytes(learner_to_bytes(learner), name)
    method = "predict_proba" if hasattr(learner, "predict_proba") else "predict"
    np.testing.assert_array_equal(getattr(found, method)(X), getattr(learner, method)(X))


def test_what_could_not_be_read_again_is_not_written():
    with pytest.raises(ModelFileError, match="KDTree"):
        learner_to_bytes(KNeighborsClassifier(algorithm="kd_tree").fit(X, Y))


def refused(learner, match="expected"):
    """Write a learner by skops, which looks at no content, and see it refused."""
    with pytest.raises(ModelFileError, match=match):
        learner_from_bytes(skops.io.dumps(learner), "crafted")


def with_nodes(change):
    learner = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, Y)
    state = learner.tree_.__getstate__()
    change(state["nodes"], state["values"])
    learner.tree_.__setstate__(state)
    return learner


@pytest.mark.parametrize("field, value", [
    ("left_child", 10**9), ("left_child", 0), ("right_child", 0), ("right_child", -7), ("left_child", 2),
    ("feature", 3), ("feature", -2), ("feature", 2**62), ("threshold", np.nan),
])  # fmt: skip
@pytest.mark.parametrize("inside", ["tree", "forest", "calibrated"])
def test_a_tree_with_a_node_out_of_range_is_refused(field, value, inside):
    def change(nodes, values):
        nodes[field][0] = value

    learner = with_nodes(change)
    if inside == "forest":
        learner, tree = RandomForestClassifier(2, max_depth=3).fit(X, Y), learner
        learner.estimators_[1] = tree
    elif inside == "calibrated":
        learner, tree = CalibratedClassifierCV(DecisionTreeClassifier(), cv=2).fit(X, Y), learner
        learner.calibrated_classifiers_[0].estimator = tree
    refused(learner, "two later nodes|features 0 to 2|thresholds")


def test_a_tree_that_is_a_circle_is_refused():
    def change(nodes, values):
        inner = np.flatnonzero(nodes["left_child"] > 0)
        nodes["left_child"][inner[-1]] = inner[0] + 1

    refused(with_nodes(change), "two later nodes")


def test_a_tree_of_infinite_values_is_refused():
    def change(nodes, values):
        values[1] = np.inf

    refused(with_nodes(change), "a finite value for each node")


def edited(learner, change):
    """The bytes of a learner whose schema and arrays were changed."""
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(learner))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])
    change(schema, members)
    members["schema.json"] = json.dumps(schema).encode()
    return archive_of(members)


def archive_of(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def nodes_of(schema, loader):
    return [node for node in learner_files._nodes(schema) if node["__loader__"] == loader]


def plain(value):
    """A number as skops writes it."""
    kind = {"__class__": "str", "__module__": "builtins"}
    return {**kind, "__loader__": "JsonNode", "content": json.dumps(value)}


def as_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("count", [10**9, -1, 0, 3, "many", None, 2.5, True])
def test_a_tree_that_claims_another_number_of_nodes_is_refused(count):
    def change(schema, members):
        (tree,) = nodes_of(schema, "TreeNode")
        tree["content"]["content"]["node_count"] = plain(count)

    with pytest.raises(ModelFileError, match="expected"):
        learner_from_bytes(edited(with_nodes(lambda *_: None), change), "crafted")


@pytest.mark.parametrize("place, value", [
    (0, 10**12), (0, 2), (0, -1), (2, 10**9), (2, 0), (2, -1), (1, np.array([2])), (1, np.array([10**12])),
    (1, np.zeros(0, np.int64)), (1, np.array([2.0])),
])  # fmt: skip
def test_arguments_of_a_tree_are_checked_before_it_is_made(place, value):
    def change(schema, members):
        (tree,) = nodes_of(schema, "TreeNode")
        arguments = tree["__reduce__"]["args"]["content"]
        if isinstance(value, int):
            arguments[place] = plain(value)
        else:
            members[arguments[place]["file"]] = as_bytes(value)

    learner = with_nodes(lambda *_: None)
    if place == 1 and len(np.atleast_1d(value)) == 1 and value[0] == 2 and value.dtype == np.int64:
        learner_from_bytes(edited(learner, change), "as it is")
        return
    with pytest.raises(ModelFileError, match="expected"):
        learner_from_bytes(edited(learner, change), "crafted")


def test_a_part_cannot_stand_in_for_a_checked_one():
    """skops makes parts of one name once: a later array of a name checked would not be the one used."""

    def change(schema, members):
        (tree,) = nodes_of(schema, "TreeNode")
        nodes = tree["content"]["content"]["nodes"]
        bad = np.load(io.BytesIO(members[nodes["file"]]))
        bad["left_child"][0] = 10**9
        members["bad.npy"] = as_bytes(bad)
        schema["content"]["content"] = {"first": {**nodes, "file": "bad.npy"}, **schema["content"]["content"]}

    with pytest.raises(ModelFileError, match="names of their own, found two of one name"):
        learner_from_bytes(edited(with_nodes(lambda *_: None), change), "crafted")

    def whole_state(schema, members):
        (tree,) = nodes_of(schema, "TreeNode")
        state = json.loads(json.dumps(tree["content"]))
        nodes = state["content"]["nodes"]
        bad = np.load(io.BytesIO(members[nodes["file"]]))
        bad["left_child"][0] = 10**9
        members["bad.npy"] = as_bytes(bad)
        nodes.update(file="bad.npy", __id__=1)
        schema["content"]["content"] = {"first": state, **schema["content"]["content"]}

    with pytest.raises(ModelFileError, match="names of their own, found two of one name"):
        learner_from_bytes(edited(with_nodes(lambda *_: None), whole_state), "crafted")


@pytest.fixture
def boosting():
    return HistGradientBoostingClassifier(max_iter=2, max_leaf_nodes=5, categorical_features=[2]).fit(X, Y)


@pytest.mark.parametrize("field, value", [
    ("left", 10**6), ("left", 0), ("right", 0), ("feature_idx", 3), ("feature_idx", -1), ("value", np.nan),
    ("num_threshold", np.nan),
])  # fmt: skip
def test_a_boosted_tree_with_a_node_out_of_range_is_refused(field, value, boosting):
    boosting._predictors[1][0].nodes[field][0] = value
    refused(boosting, "two later nodes|features 0 to 2|finite values")


def test_sets_of_categories_out_of_range_are_refused(boosting):
    by_set = [tree for (tree,) in boosting._predictors if tree.nodes["is_categorical"].any()]
    assert by_set
    tree = by_set[0]
    (place, *_) = np.flatnonzero(tree.nodes["is_categorical"])
    tree.nodes["bitset_idx"][place] = 10**6
    refused(boosting, "sets 0 to")
    tree.nodes["bitset_idx"][place] = 0
    tree.nodes["feature_idx"][place] = 1
    refused(boosting, "sets of categories for categories only")


@pytest.mark.parametrize("name, change", {
    "no nodes": lambda m: setattr(m._predictors[0][0], "nodes", m._predictors[0][0].nodes[:0]),
    "other nodes": lambda m: setattr(m._predictors[0][0], "nodes", np.zeros(4)),
    "small sets": lambda m: setattr(m._predictors[0][0], "raw_left_cat_bitsets", np.zeros((1, 7), np.uint32)),
    "no trees": lambda m: m._predictors.append([None]),
    "two trees": lambda m: m._predictors[0].append(m._predictors[0][0]),
    "many outputs": lambda m: setattr(m, "n_trees_per_iteration_", 10**12),
    "few categories": lambda m: setattr(m._bin_mapper, "is_categorical_", np.zeros(1, bool)),
    "no features": lambda m: delattr(m, "n_features_in_"),
    "more features": lambda m: setattr(m, "n_features_in_", 4),
    "in the fit": lambda m: setattr(m, "_in_fit", True),
    "other columns": lambda m: setattr(m, "_preprocessor", SplineTransformer(2).fit(X)),
}.items())  # fmt: skip
def test_boosting_that_does_not_fit_together_is_refused(name, change, boosting):
    change(boosting)
    refused(boosting)


def test_trees_of_other_features_are_refused():
    wide = DecisionTreeClassifier().fit(np.tile(X, 5), Y)
    forest = RandomForestClassifier(2).fit(X, Y)
    forest.estimators_[1] = wide
    refused(forest, "trees of the same features")
    steps = GradientBoostingClassifier(n_estimators=2).fit(X, Y)
    steps.estimators_ = np.repeat(steps.estimators_, 3, axis=1)
    refused(steps, "one tree for each step")
    alone = DecisionTreeClassifier().fit(X, Y)
    alone.n_features_in_ = 15
    refused(alone, "a tree of 15 features")


@pytest.mark.parametrize("name, value", [
    ("_n_support", np.array([10**6, 3], np.int32)), ("_dual_coef_", np.zeros((1, 2))),
    ("_intercept_", np.zeros(0)), ("support_vectors_", np.zeros((3, 1))),
    ("kernel", "precomputed"), ("_probA", np.zeros(7)),
])  # fmt: skip
def test_support_vectors_that_do_not_fit_together_are_refused(name, value):
    learner = SVC().fit(X, Y)
    setattr(learner, name, value)
    refused(learner)


@pytest.mark.parametrize("name, value", [
    ("_y", np.full(120, 10**6)), ("_y", np.zeros(3, int)), ("_fit_X", X[:, :2]), ("n_samples_fit_", 10**9),
])  # fmt: skip
def test_neighbours_that_do_not_fit_together_are_refused(name, value):
    learner = KNeighborsClassifier(algorithm="brute").fit(X, Y)
    setattr(learner, name, value)
    refused(learner)


def test_centres_of_other_features_are_refused():
    learner = KMeans(2, n_init=1).fit(X)
    learner.cluster_centers_ = learner.cluster_centers_[:, :1]
    refused(learner, "centres of the features")


@pytest.mark.parametrize("name, value", [("_t", np.zeros(3)), ("_c", np.zeros((1, 1))), ("k", 90), ("k", -1)])
def test_splines_that_do_not_fit_together_are_refused(name, value):
    learner = SplineTransformer(3).fit(X)
    vars(learner.bsplines_[0])[name] = value
    refused(learner)


def header_of(text):
    content = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


@pytest.mark.parametrize(
    "array",
    [
        header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296,), }"),
        header_of("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        header_of("{'descr': '|V0', 'fortran_order': False, 'shape': (9999999999999,), }"),
        header_of("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + bytes(8),
        header_of("{'descr': 'rubbish"),
        b"",
        b"half",
        as_bytes(np.zeros(9))[:-8],
        as_bytes(np.zeros(9)) + b"more",
    ],
)
def test_arrays_are_of_the_size_that_they_say(array):
    def change(schema, members):
        members[next(name for name in members if name.endswith(".npy"))] = array

    with pytest.raises(ModelFileError, match="expected"):
        learner_from_bytes(edited(LogisticRegression().fit(X, Y), change), "crafted")


def test_a_member_that_unpacks_to_far_more_is_refused():
    members = {"schema.json": b"{}", "1.npy": bytes(1 << 27)}
    packed = archive_of(members, compression=zipfile.ZIP_DEFLATED)
    assert len(packed) < 1 << 18
    with pytest.raises(ModelFileError, match=r"at most 67,108,864 bytes, found 134,217,730 bytes, unpacked"):
        learner_from_bytes(packed, "crafted")


@pytest.mark.parametrize("name", ["../x.npy", "x.npz", "x.bin", "folder/"])
def test_other_members_are_refused(name):
    def change(schema, members):
        members[name] = b""

    written = edited(LogisticRegression().fit(X, Y), change)
    if name == "../x.npy":  # nothing is unpacked to a folder
        learner_from_bytes(written, "crafted")
        return
    with pytest.raises(ModelFileError, match="a schema and arrays, each once"):
        learner_from_bytes(written, "crafted")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused():
    buffer = io.BytesIO(skops.io.dumps(LogisticRegression().fit(X, Y)))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("schema.json", "{}")
    with pytest.raises(ModelFileError, match="each once"):
        learner_from_bytes(buffer.getvalue(), "crafted")


def node(loader, content, name=None, kind="builtins.list"):
    module, _, made = kind.rpartition(".")
    named = {} if name is None else {"__id__": name}
    return {"__loader__": loader, "__module__": module, "__class__": made, "content": content, **named}


def nested(depth):
    inside = node("ListNode", [])
    for _ in range(depth):
        inside = node("ListNode", [inside])
    return inside


def laughing(rounds):
    """Each list holds the one before twice, by its name: 2^rounds in all."""
    rows = [node("ListNode", [], 1)]
    for k in range(2, rounds):
        rows.append(node("ListNode", [node("ListNode", [], k - 1), node("ListNode", [], k - 1)], k))
    return node("ListNode", rows)


@pytest.mark.parametrize(
    "schema, message",
    [
        (nested(200), "levels"),
        (laughing(60), "parts without end"),
        (node("ListNode", [node("ListNode", [node("ListNode", [], 1)], 1)]), "a part inside itself"),
        (
            node("ConstructorFromReduceNode", [], kind="sklearn.tree._tree.Tree"),
            "as ConstructorFromReduceNode",
        ),
        (node("ObjectNode", [], kind="sklearn.tree._tree.Tree"), "as ObjectNode"),
        (node("MethodNode", [], kind="sklearn.tree._tree.Tree"), "as MethodNode"),
        (node("ListNode", [], kind="sklearn.tree._tree.Tree"), "as ListNode"),
        (node("FunctionNode", [], kind="os.system"), "found os.system"),
        (node("ObjectNode", None, kind="subprocess.Popen"), "found subprocess.Popen"),
        (node("JsonNode", 3, kind="builtins.str"), "expected text"),
        (node("JsonNode", "[" * 5000, kind="builtins.str"), "a learner that skops wrote"),
        (node("JsonNode", "3", kind="builtins.str"), "a learner of scikit-learn, found int"),
        ([], "format 2 of skops"),
        ({}, "format 2 of skops"),
    ],
)
def test_schemas_that_scikit_learn_never_needs_are_refused(schema, message):
    if isinstance(schema, dict) and schema:
        schema["protocol"] = learner_files._protocol()
    message = message.replace("format 2", f"format {learner_files._protocol()}")
    with pytest.raises(ModelFileError, match=message):
        learner_from_bytes(archive_of({"schema.json": json.dumps(schema)}), "crafted")


def test_earlier_formats_with_fewer_checks_are_not_read():
    def change(schema, members):
        schema["protocol"] = 0

    with pytest.raises(ModelFileError, match="of skops, which is installed, found 0"):
        learner_from_bytes(edited(LogisticRegression().fit(X, Y), change), "crafted")


def test_a_generator_cannot_ask_for_a_large_pool(boosting):
    def change(schema, members):
        (generator,) = nodes_of(schema, "RandomGeneratorNode")
        generator["content"]["seed_seq"]["content"]["pool_size"]["content"] = str(10**11)

    with pytest.raises(ModelFileError, match=r"pool_size 4, found 100000000000|two of one name"):
        learner_from_bytes(edited(boosting, change), "crafted")


def test_no_flipped_byte_crashes_the_reading():
    """Without a digest around it: what is read after a flip predicts or is refused."""
    written = learner_to_bytes(HistGradientBoostingClassifier(max_iter=2).fit(X, Y))
    rng = np.random.default_rng(0)
    for position in rng.choice(len(written), 60, replace=False):
        flipped = bytearray(written)
        flipped[position] ^= 1 << rng.integers(8)
        with contextlib.suppress(ModelFileError):
            assert learner_from_bytes(bytes(flipped), "flipped").predict_proba(X).shape == (120, 2)

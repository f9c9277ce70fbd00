"""Figures: a text each, equal figures in equal files, and sliders that show what the table holds."""

import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.figures import charts, diagrams, style
from cfmtl_lib.figures.explorer import explore_rewards


def a_surface(**changes):
    rows = [
        {"scenario": scenario, "method": method, "cost": cost, "budget": budget, "seeds": 2, "sd": 1.5,
         "mean": 100 * budget - 200 * cost * k + 10 * (scenario == "cash")}
        for scenario in cf.SCENARIOS
        for k, method in enumerate(("CF-OR", "OR", "Oracle"))
        for cost in (0.0, 0.4)
        for budget in (0.2, 0.4, 1.0)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**changes)


@pytest.mark.parametrize(
    "draw",
    [diagrams.causal_graph, diagrams.strata_table, diagrams.identification_map, diagrams.cf_mtl_network],
    ids=lambda draw: draw.__name__,
)
def test_drawings_are_pictures(draw):
    shown = style.picture(draw(), f"A drawing of the {draw.__name__}, for this test.")
    assert shown.svg.startswith(b"<?xml") and b"</svg>" in shown.svg
    assert plt.get_fignums() == []
    again = style.picture(draw(), "The same drawing, a second time.")
    assert again.svg == shown.svg, "equal figures should make equal files"


def test_the_strata_table_names_each_stratum_once():
    texts = [text.get_text() for text in diagrams.strata_table().axes[0].texts]
    for name in cf.STRATA:
        assert texts.count(name) == 1
    assert sum("exclusion" in text for text in texts) == 2
    assert sum("monotonicity" in text for text in texts) == 1


def test_the_map_draws_theorem_1():
    """Signs of the right panel against the formulas of the identification, at random means."""
    right = diagrams.identification_map().axes[1]
    signs = {"·": 0.0, "+1": 1.0, "−1": -1.0}
    drawn = np.zeros((5, 5))
    for text in right.texts:
        column, row = text.get_position()
        drawn[int(row), int(column)] = signs[text.get_text()]
    mu1, mu0, kappa, tau = np.random.default_rng(0).random(4)
    expected = [1 - kappa - mu1 + tau, mu1 - tau, kappa - tau, mu1 - mu0, mu0 - mu1 + tau]
    np.testing.assert_allclose(drawn @ [1, mu1, mu0, kappa, tau], expected, atol=1e-12)


def test_a_picture_needs_a_text():
    figure, _ = plt.subplots()
    with pytest.raises(InputError, match="what the figure shows"):
        style.picture(figure, "  A figure. ")
    shown = style.picture(figure, 'Text with "quotes" & signs, over\n two lines.')
    assert shown.alt == 'Text with "quotes" & signs, over two lines.'
    assert 'alt="Text with &quot;quotes&quot; &amp; signs, over two lines."' in shown._repr_html_()


def test_stacks_keep_the_order_of_the_strata():
    """In grey print the order tells what colours cannot."""
    index = pd.MultiIndex.from_tuples([("coupon", "OR")], names=["scenario", "method"])
    counts = pd.DataFrame([[1, 2, 3, 4, 5]], index=index, columns=cf.STRATA)
    bars = charts.plot_treated(counts).axes[0].patches
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 1), (1, 2), (3, 3), (6, 4), (10, 5)]


def test_ranks_put_the_best_on_top():
    rewards = pd.DataFrame({"one": [3.0, 1.0, 2.0], "two": [1.0, 2.0, 3.0]}, index=["A", "B", "C"])
    ax = charts.plot_ranking(rewards, ["A"]).axes[0]
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 3], [3, 2], [2, 1]]
    low, high = ax.get_ylim()
    assert low > high


def test_learners_stand_at_their_means_with_two_errors():
    summary = pd.DataFrame(
        {
            "labelling": ["code", "code", "text"],
            "scenario": "cash",
            "method": ["A", "B", "A"],
            "kind": ["paper", "effects", "paper"],
            "mean": [3.0, 1.0, 2.0],
            "se": [0.5, np.nan, 0.25],
        }
    )
    figure = charts.plot_learners(summary)
    assert [ax.get_title() for ax in figure.axes] == ["cash, labelling code", "cash, labelling text"]
    drawn = [[part.lines for part in ax.containers] for ax in figure.axes]
    points = [[(line.get_xdata()[0], line.get_ydata()[0]) for line, _, _ in part] for part in drawn]
    assert points == [[(1.0, -1), (3.0, 0)], [(2.0, 0)]] or points == [[(3.0, 0), (1.0, -1)], [(2.0, 0)]]
    assert sorted(cap.get_xdata()[0] for cap in drawn[1][0][1]) == [1.5, 2.5]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["A", "B"]


class Page(HTMLParser):
    """Text of the rows of a table, and the data of the script."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.data, self._inside = [], None, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._inside = ("data" if ("type", "application/json") in attrs else None) if tag == "script" else tag
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        if self._inside == "data":
            self.data = json.loads(data)
            self._inside = None
        elif self._inside in ("th", "td") and data.strip():
            self.rows[-1].append(data.strip())


def test_explorer_holds_the_surface_and_shows_one_point_without_scripts():
    surface = a_surface()
    shown = explore_rewards(surface, "Here")
    page = Page(shown.html)
    assert [row[0] for row in page.rows[1:]] == ["CF-OR", "OR", "Oracle"]
    assert [row[1] for row in page.rows[1:]] == ["40 ± 2", "−40 ± 2", "−120 ± 2"]
    assert re.findall(r'name="(budget|cost)" [^>]*value="(\d+)"', shown.html) == [
        ("budget", "1"),
        ("cost", "1"),
    ]
    data = page.data
    for row in surface.itertuples():
        c, b = data["costs"].index(row.cost), data["budgets"].index(row.budget)
        assert data["rewards"][row.scenario][row.method]["mean"][c][b] == pytest.approx(row.mean, abs=0.05)
    assert not re.search(r"@[A-Z_]+@", shown.html) and "http" not in shown.html
    assert "CF-OR" in repr(shown) and "budget 40%" in repr(shown)


def test_two_explorers_do_not_meet():
    first, second = explore_rewards(a_surface(), "One"), explore_rewards(a_surface(), "Two")
    ids = [re.search(r'id="(explorer-\w+)"', shown.html).group(1) for shown in (first, second)]
    assert ids[0] != ids[1]


def test_one_seed_has_no_spread():
    page = Page(explore_rewards(a_surface(sd=np.nan, seeds=1), "Here").html)
    assert [row[1] for row in page.rows[1:]] == ["40", "−40", "−120"]


@pytest.mark.parametrize(
    ("surface", "message"),
    [
        (pd.concat([a_surface(), a_surface()]), "Choose one dataset"),
        (a_surface().iloc[1:], "every method at every point"),
        (a_surface(budget=0.3).drop_duplicates(["scenario", "method", "cost"]), "a point of the surface"),
    ],
)
def test_explorer_refuses_what_it_cannot_show(surface, message):
    with pytest.raises(InputError, match=message):
        explore_rewards(surface, "Here")

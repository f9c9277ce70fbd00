"""Figure with sliders of budget and cost, in plain HTML and JavaScript without kernel or network."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from cfmtl_lib.errors import InputError

_KEYS = ["scenario", "method", "cost", "budget"]


@dataclass(frozen=True)
class Explorer:
    """Interactive figure of a notebook.

    Attributes
    ----------
    html : str
        Table at one point; a script, where scripts run, lets the reader move the point.
    text : str
        Same table as plain text.
    """

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def explore_rewards(
    surface: pd.DataFrame,
    title: str,
    *,
    budget: float = 0.4,
    cost: float = 0.4,
    references: Collection[str] = ("Oracle", "Random"),
) -> Explorer:
    """Make a figure where readers choose budget, cost and scenario, and see the reward of each method.

    Parameters
    ----------
    surface : DataFrame
        Rows of one study of :func:`~cfmtl_lib.experiments.paper.sensitivity.reward_surface`, every method
        at every point: columns scenario, method, cost, budget, mean, sd, seeds.
    title : str
        Heading of the controls.
    budget, cost : float
        First point of the sliders, and the point that is shown where scripts do not run.
    references : collection of str
        Names of reference methods that are left out when the best method is named.

    Returns
    -------
    Explorer

    Raises
    ------
    InputError
        If a point is missing or occurs twice, or no row has this budget and cost.
    """
    if surface.duplicated(_KEYS).any():
        raise InputError(
            "surface",
            expected="one row for each scenario, method, cost and budget",
            found="rows that agree in all four",
            advice="Choose one dataset, labelling and construction.",
        )
    methods = list(dict.fromkeys(surface["method"]))
    scenarios = list(dict.fromkeys(surface["scenario"]))
    budgets, costs = sorted(surface["budget"].unique()), sorted(surface["cost"].unique())
    if len(surface) != len(methods) * len(scenarios) * len(budgets) * len(costs):
        raise InputError("surface", expected="every method at every point", found=f"{len(surface)} rows")
    if budget not in budgets or cost not in costs:
        raise InputError("budget, cost", expected="a point of the surface", found=f"{budget}, {cost}")
    wide = surface.set_index(_KEYS).sort_index()
    shape = (len(costs), len(budgets))
    rewards = {
        scenario: {
            method: {
                what: wide.loc[(scenario, method), what].fillna(0).round(1).to_numpy().reshape(shape).tolist()
                for what in ("mean", "sd")
            }
            for method in methods
        }
        for scenario in scenarios
    }
    data = {
        "budgets": budgets,
        "costs": costs,
        "rewards": rewards,
        "seeds": int(surface["seeds"].max()),
        "references": list(references),
    }
    now = wide.loc[scenarios[0]].xs((cost, budget), level=("cost", "budget")).loc[methods]
    caption = f"{scenarios[0]}, budget {budget:.0%}, cost {cost:g}: mean over {data['seeds']} seeds."
    marked = {
        "ID": "explorer-" + hashlib.sha256(json.dumps([title, data]).encode()).hexdigest()[:10],
        "TITLE": html.escape(title),
        "SCENARIOS": "".join(f"<option>{html.escape(name)}</option>" for name in scenarios),
        "LAST_BUDGET": str(len(budgets) - 1),
        "BUDGET": str(budgets.index(budget)),
        "LAST_COST": str(len(costs) - 1),
        "COST": str(costs.index(cost)),
        "CAPTION": html.escape(caption),
        "ROWS": "".join(_row(str(name), now.loc[name]) for name in methods),
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = (files("cfmtl_lib.figures") / "explorer.html").read_text(encoding="utf-8")
    for name, text in marked.items():
        page = page.replace(f"@{name}@", text)
    return Explorer(page, f"{caption}\n{now[['mean', 'sd']].round(0).to_string()}")


def _row(method: str, point: pd.Series) -> str:
    sd = "" if pd.isna(point["sd"]) else f" ± {point['sd']:,.0f}"
    reward = f"{point['mean']:,.0f}{sd}".replace("-", "−")
    name = html.escape(method)
    return (
        f'<tr data-method="{name}"><th scope="row">{name}</th><td class="reward">{reward}</td>'
        '<td class="bar"><div class="track"><i></i><span></span></div></td></tr>'
    )

"""Update of README.md's figure and table of results: ``python book/_ext/readme.py``.

Both are computed from results/. A test compares README.md with what this script would write.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cfmtl_lib.experiments.book import published_numbers
from cfmtl_lib.experiments.paper import comparison

ROOT = Path(__file__).resolve().parents[2]
FIGURE = Path("book", "assets", "ranking.svg")
BEGIN, END = "<!-- results: book/_ext/readme.py writes from here -->", "<!-- to here -->"


def results_block(root: Path) -> str:
    """Write the figure and the table between the markers of README.md."""
    fact = {name: value.text for name, value in published_numbers.facts(root / "results").items()}
    alt = comparison.ranking(root / "results").alt
    lines = [
        BEGIN,
        f"![{alt}]({FIGURE.as_posix()})",
        "",
        "| on MovieLens 1M | result |",
        "|---|---|",
        f"| Table 4: means of {fact['table4-seeds']} seeds within {comparison.TOLERANCE:g} % of print | "
        f"{fact['table4-reproduced']} of {fact['table4-numbers']} "
        f"({fact['table4-largest-percent']} off at most) |",
        f"| Table 6: the same, identified fits | {fact['table6-reproduced']} of {fact['table6-numbers']} "
        f"({fact['table6-largest-percent']} off at most) |",
        f"| Tables 4 and 5, Yelp and KuaiRec | {comparison.NO_DATA} |",
        f"| lead of CF-MTL-v1 over CF-MTL that comes from other data | {fact['v1-lead-from-data']} |",
        "| labelling of the text instead of the code's, cash: lead of CF-OR over CF-MTL | "
        f"{fact['text-cf-or-lead-cash-authors']} and {fact['text-cf-or-lead-cash-document']} |",
        f"| best of {fact['learners']} learners, labelling of the code, coupon and cash "
        f"(CF-MTL-v1: {fact['learner-v1-code-coupon']} and {fact['learner-v1-code-cash']}) | "
        f"{fact['learner-best-code-coupon-name']} {fact['learner-best-code-coupon']} and "
        f"{fact['learner-best-code-cash-name']} {fact['learner-best-code-cash']} |",
        "| the same, labelling of the text | "
        f"{fact['learner-best-text-coupon-name']} {fact['learner-best-text-coupon']} and "
        f"{fact['learner-best-text-cash-name']} {fact['learner-best-text-cash']} |",
        "| policy values from the log, known propensity: within 3 standard errors | "
        f"{fact['values-known-within']} |",
        "| the same, propensity fitted by the paper's network: off by | "
        f"{fact['values-additive-z']} standard errors |",
        f"| 95 % intervals in {fact['coverage-logs']} simulated logs cover in | {fact['coverage']} |",
        f"| Table 4, one seed, eight methods: times faster than a plain loop, same results | "
        f"{fact['speed-library']} (with additive parameters, an option: {fact['speed-additive']}), "
        f"in {fact['speed-memory']} |",
        END,
    ]
    return "\n".join(lines)


def figure(root: Path) -> bytes:
    """Draw the figure of README.md, marked with the digest of the file that it shows."""
    digest = hashlib.sha256((root / "results" / "ml-1m" / "table4.csv").read_bytes()).hexdigest()
    svg = comparison.ranking(root / "results").svg
    return svg.replace(b"<svg ", f"<!-- results/ml-1m/table4.csv {digest} -->\n<svg ".encode(), 1)


def renewed(text: str, block: str) -> str:
    """Replace what is between the markers in ``text`` of README.md by ``block``."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    if len(re.findall(pattern, text, flags=re.S)) != 1:
        raise ValueError(f"README.md: expected {BEGIN!r} and {END!r} once each, in this order")
    return re.sub(pattern, lambda _: block, text, flags=re.S)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(renewed(readme.read_text(encoding="utf-8"), results_block(ROOT)), encoding="utf-8")
    (ROOT / FIGURE).write_bytes(figure(ROOT))

"""The built book in headless Chromium, from file://: what readers see, with a screen or without one.

They need the book, a Chromium, and playwright: `make test-book` sees to the first and the last.
"""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "_build" / "html"
AXE = ROOT / "tests" / "vendor" / "axe-core" / "axe.min.js"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
HOW = "run `make test-book`, after `apt-get install chromium` or the like"


def documents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


PAGES = documents()
SCREENS = {"phone": (390, 844), "desk": (1280, 900)}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (BUILT / "index.html").is_file(), reason=f"no book in _build/html: {HOW}"),
]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason=f"no playwright: {HOW}")
    if CHROMIUM is None:
        pytest.skip(f"no chromium on the PATH: {HOW}")
    with sync_api.sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as whom containers run.
        options = ["--no-sandbox"] if os.getuid() == 0 else []
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """Open a page; at the end nothing may have gone wrong in it."""
    contexts, wrong = [], []

    def note(message):
        if message.type in ("error", "warning"):
            wrong.append(f"console {message.type}: {message.text}")

    def open_page(name, screen="desk", theme="light", query=""):
        width, height = SCREENS[screen]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
        page.on("requestfailed", lambda request: wrong.append(f"failed request: {request.url}"))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url)
            ),
        )
        page.goto((BUILT / f"{name}.html").as_uri() + query)
        if page.evaluate("typeof MathJax !== 'undefined'"):
            page.evaluate("MathJax.startup.promise.then(() => true)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


# Text as readers see it, with folded parts and alternatives of figures, without formulas and code.
SEEN = """() => {
  const page = document.body.cloneNode(true);
  const apart = 'pre, code, dt.sig, script, style, template, mjx-container, .highlight';
  page.querySelectorAll(apart).forEach(element => element.remove());
  const alternatives = [...page.querySelectorAll('[alt], [aria-label], [title]')].flatMap(
    e => ['alt', 'aria-label', 'title'].map(name => e.getAttribute(name) || ''));
  return [page.textContent, ...alternatives].join('\\n');
}"""
RAW_TEX = re.compile(r".{0,40}(?:\$|\\[a-zA-Z]+|\\[()\[\],;!{}]|[_^]\{).{0,40}")


def raw_tex(page):
    """Places where the source of a formula stands instead of the formula."""
    return RAW_TEX.findall(page.evaluate(SEEN))


@pytest.mark.parametrize("name", PAGES)
def test_formulas_are_typeset_wherever_they_come_from(opened, name):
    """Text, captions, and what cells print: none shows dollars or commands of TeX."""
    assert raw_tex(opened(name)) == []


@pytest.mark.parametrize(
    "html",
    [
        "<p>its logit is $a_u + b_i$</p>",
        r"<table><tr><td>P(C \mid T=1)</td></tr></table>",
        r"<details><summary>more</summary>\(x\)</details>",
        "<p>L_{001}</p>",
        "<img src='data:,' alt='the mean of $x$'>",
    ],
)
def test_raw_tex_is_seen(opened, html):
    """The check above can fail: it did not look at what cells print once."""
    page = opened("index")
    put = "html => document.querySelector('article').insertAdjacentHTML('beforeend', html)"
    before = raw_tex(page)
    page.evaluate(put, r"<pre>$HOME \n</pre> <code>\frac</code>")
    assert raw_tex(page) == before
    page.evaluate(put, html)
    assert len(raw_tex(page)) == len(before) + 1


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", PAGES)
def test_page_loads_and_fits(opened, name, screen):
    page = opened(name, screen)
    assert page.locator("article h1").count() == 1
    assert page.locator("mjx-merror, [data-mml-node='merror'], mjx-container [fill='red']").count() == 0
    # Formulas are typeset, not left as TeX between dollars or backslashes.
    assert page.locator("main .math:not(:has(mjx-container))").count() == 0
    width, seen = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= seen, f"{name} scrolls sideways at {seen} px: it is {width} px wide"
    if screen == "desk":  # on a phone long formulas scroll inside themselves
        cut = page.eval_on_selector_all(
            "mjx-container[display=true]",
            "all => all.filter(f => f.scrollWidth > f.clientWidth + 2).map(f => f.textContent.slice(0, 80))",
        )
        assert cut == [], "formulas wider than the text: break them"
    broken = page.eval_on_selector_all(
        "main img", "all => all.filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 100))"
    )
    assert broken == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible(opened, name, theme):
    page = opened(name, theme=theme)
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {preload: false, resultTypes: ['violations']})")
    serious = {
        f"{v['id']} ({v['impact']}): {v['help']}: {[node['html'][:160] for node in v['nodes'][:4]]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    }
    assert serious == set()


def test_axe_sees_a_fault(opened):
    """The check above can fail."""
    page = opened("index")
    page.evaluate(
        "document.querySelector('article').insertAdjacentHTML('beforeend',"
        " '<p style=\"color: #ddd; background: #fff\">faint</p><button></button>')"
    )
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {preload: false, resultTypes: ['violations']})")
    assert {"button-name", "color-contrast"} <= {violation["id"] for violation in found["violations"]}


def test_every_figure_has_a_text(opened):
    for name in PAGES:
        for alt in opened(name).eval_on_selector_all("main img", "all => all.map(image => image.alt)"):
            assert len(alt) >= 20, f"{name}: a figure whose text is {alt!r}"


def test_search_finds_always_buyer(opened):
    page = opened("search", query="?q=always+buyer")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    titles = page.locator("#search-results li a").all_inner_texts()
    assert any("Potential outcomes" in title for title in titles), titles
    page = opened("search", query="?q=xyzzyplugh")
    page.wait_for_function("document.querySelector('.search-summary')?.innerText.includes('did not match')")


def test_sliders_change_the_numbers(opened):
    page = opened("notebooks/07_table4")
    explorer = page.locator(".reward-explorer").first
    caption, row = explorer.locator("caption"), explorer.locator("tbody tr").first.locator(".reward")
    before = caption.inner_text(), row.inner_text()
    assert "40 %" in before[0] and "0.4" in before[0]
    explorer.locator("[name=budget]").focus()
    page.keyboard.press("ArrowLeft")
    assert "35 %" in caption.inner_text()
    assert row.inner_text() != before[1]
    page.keyboard.press("ArrowRight")
    assert (caption.inner_text(), row.inner_text()) == before
    explorer.locator("[name=scenario]").select_option("cash")
    assert caption.inner_text().startswith("cash") and row.inner_text() != before[1]


def test_sliders_have_a_static_fallback(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((BUILT / "notebooks/07_table4.html").as_uri())
    explorer = page.locator(".reward-explorer").first
    assert not explorer.locator("fieldset").is_visible()
    assert re.match(r"[\d,]+ ± [\d,]+", explorer.locator("tbody tr").first.locator(".reward").inner_text())
    context.close()


def test_solutions_are_hidden_until_asked_for(opened):
    page = opened("notebooks/01_potential_outcomes")
    solution = page.locator(".solution.dropdown").first
    body = solution.locator(":scope > :not(.admonition-title)").first
    assert not body.is_visible()
    solution.locator("button, summary, .admonition-title").first.click()
    assert body.is_visible()


def test_a_chapter_prints(opened):
    page = opened("notebooks/02_identification")
    page.emulate_media(media="print")
    assert not page.locator(".bd-sidebar-primary").is_visible()
    assert not page.locator(".bd-header-article").is_visible()
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 40


class Anchors(HTMLParser):
    """Ids and links of a page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values[key] for key in ("id", "name") if values.get(key)}
        self.links += [values[key] for key in ("href", "src") if values.get(key)]


@cache
def anchors(path):
    return Anchors(path)


@pytest.mark.parametrize("name", PAGES)
def test_no_broken_link(name):
    here = BUILT / f"{name}.html"
    for link in anchors(here).links:
        if urlparse(link).scheme:
            continue
        path, fragment = urldefrag(link)
        target = (here.parent / unquote(path.split("?")[0])).resolve() if path else here
        assert target.is_file(), f"{name} links to {link}, which is not there"
        if fragment and target.suffix == ".html":
            assert unquote(fragment) in anchors(target).ids, f"{name} links to {link}: no such place"


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("notebooks/")])
def test_chapter_offers_a_notebook_that_can_be_run(name):
    links = [link for link in anchors(BUILT / f"{name}.html").links if link.endswith(".ipynb")]
    assert links, "no button to download the notebook"
    notebook = nbformat.read((BUILT / f"{name}.html").parent / links[0], as_version=4)
    nbformat.validate(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "dataset = " in code[0]
    assert notebook.metadata["kernelspec"]["name"] == "python3"


def test_the_downloaded_notebook_runs_anywhere(tmp_path):
    shutil.copy(BUILT / "_sources/notebooks/01_potential_outcomes.ipynb", tmp_path / "mine.ipynb")
    command = [sys.executable, "-m", "papermill", "mine.ipynb", "out.ipynb", "--no-progress-bar"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]

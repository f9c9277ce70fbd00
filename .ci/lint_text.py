"""Check the words that readers see, and the rules of the project that no other tool knows.

``make test`` runs it as ``python .ci/lint_text.py``.

Descriptions in docstrings do not begin with a preposition. Sentences of docstrings, README.md and
CONTRIBUTING.md have fewer than 25 words. Code in notebooks is at most 74 characters wide. No page uses a
word of a list of metaphors, and no code fixes a device. Ruff's D401 looks for imperative summaries.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_WORDS = 24
WIDEST_CODE = 74
PREPOSITIONS = frozenset(
    {"of", "as", "by", "for", "from", "in", "on", "to", "with", "without", "at", "under", "over", "before"}
    | {"after", "between", "beside", "beyond", "among", "within"}
)
METAPHORS = re.compile(
    r"\b(house|rooms?|doors?|manners|floors? [0-9]|yardsticks?|hand(?:ed)? over)\b", re.IGNORECASE
)
PROSE = ("README.md", "CONTRIBUTING.md")

NOT_PROSE = ("|", "#", "==", "--", ".. ", "\\", "<!", "![")

FIXED_DEVICE = re.compile(
    r"""\.(cuda|mps|xpu)\(|\.to\(\s*["']|\bdevice\s*=\s*["'](?!auto["'])|torch\.device\(\s*["'](?!cuda" if)"""
)
"""Code that puts a tensor on a device of its own choice."""

Finding = tuple[Path, int, str]


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Give the paragraphs of prose and their lines, without tables, headings, formulas and code."""
    lines: list[str] = []
    start, indent, fenced, block, example = 0, 0, False, -1, False
    for number, line in enumerate([*text.split("\n"), ""]):
        stripped, here = line.strip(), len(line) - len(line.lstrip())
        if stripped.startswith(("```", ":::")) or stripped == "$$":
            fenced = not fenced
        if block >= 0 and stripped and here <= block:
            block = -1  # the end of what is indented below a directive
        example = stripped.startswith((">>>", "...")) or (example and bool(stripped))
        hidden = fenced or block >= 0 or example or not stripped or stripped.startswith(NOT_PROSE)
        begins = bool(re.match(r"([-*] |\d+\. |[\w*, ]+ : )", stripped)) or here != indent
        if lines and (begins or hidden):
            yield start, " ".join(lines)
            lines = []
        if not hidden:
            start, indent = (start, indent) if lines else (number, here)
            lines.append(stripped)
        if block < 0 and (stripped.startswith(".. ") or stripped.endswith("::")):
            block = here


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Split prose into sentences, with the first line of the paragraph of each."""
    for start, paragraph in paragraphs(text):
        for sentence in re.split(r"(?<=[.!?:;])\s+(?=[A-Z`\"(:])", paragraph):
            yield start, sentence


def words_of(sentence: str) -> int:
    """Count words; a formula, a role, a link or a span of code is one."""
    sentence = re.sub(r":\w+:`[^`]*`|``[^`]*``|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|\(https?\S*\)", "x", sentence)
    return len([word for word in sentence.split() if re.search(r"\w", word)])


def of_prose(path: Path, text: str, first_line: int = 1) -> Iterator[Finding]:
    """Find long sentences and metaphors."""
    for offset, sentence in sentences(text):
        count = words_of(sentence)
        if count > MOST_WORDS:
            yield path, first_line + offset, f"sentence of {count} words: {sentence[:60]}"
        if METAPHORS.search(sentence):
            yield path, first_line + offset, f"metaphor: {METAPHORS.search(sentence)[0]}"  # type: ignore[index]


def descriptions(text: str) -> Iterator[tuple[int, str]]:
    """Give what follows ``name : type`` in the sections of a docstring, with its line."""
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1]):
        below = lines[number + 1]
        if re.match(r"[\w*, ]+( : .*)?$", line) and re.match(r"    \S", below):
            yield number + 1, below.strip()


def of_metaphors(path: Path) -> Iterator[Finding]:
    """Find words of the list on a page."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        for word in METAPHORS.findall(line):
            yield path, number, f"metaphor: {word}"


def of_docstrings(path: Path) -> Iterator[Finding]:
    """Find docstrings that begin with a preposition, and what :func:`of_prose` finds in them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        text = ast.get_docstring(node, clean=True)
        if not text:
            continue
        line = node.body[0].lineno
        for offset, described in [(0, text), *descriptions(text)]:
            if described.split()[0].strip(",").lower() in PREPOSITIONS - {"as"} or described.startswith(
                "As a"
            ):
                yield path, line + offset, f"begins with a preposition: {described[:60]}"
        yield from of_prose(path, text, line)


def of_code(path: Path) -> Iterator[Finding]:
    """Find devices that are fixed in code; docstrings may name one."""
    source = path.read_text(encoding="utf-8")
    code = re.sub(r'"""[\s\S]*?"""', lambda text: "\n" * text[0].count("\n"), source)
    for number, line in enumerate(code.split("\n"), start=1):
        if FIXED_DEVICE.search(line) and "advice=" not in line:
            yield path, number, f"fixed device: {line.strip()[:60]}"


def of_notebook(path: Path) -> Iterator[Finding]:
    """Find wide lines of code."""
    in_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.startswith("```"):
            in_code = line.startswith("```{code-cell}") or (line.startswith("```python"))
        elif in_code and len(line) > WIDEST_CODE and not line.startswith(":"):
            yield path, number, f"code of {len(line)} characters"


def findings() -> Iterator[Finding]:
    """Find everything in the library, the notebooks and the prose of the project."""
    for path in sorted((ROOT / "cfmtl_lib").rglob("*.py")):
        yield from of_docstrings(path)
        yield from of_code(path)
    for path in sorted((ROOT / "notebooks").glob("*.md")):
        yield from of_notebook(path)
    for path in sorted([*(ROOT / "notebooks").glob("*.md"), *(ROOT / "book").glob("*.md")]):
        yield from of_metaphors(path)
    for name in PROSE:
        yield from of_prose(ROOT / name, (ROOT / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    found = list(findings())
    for path, line, what in found:
        print(f"{path.relative_to(ROOT)}:{line}: {what}")
    sys.exit(1 if found else 0)

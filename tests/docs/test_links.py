"""Links in the documents: every file in docs/ is reachable from the index, and every relative link has a target."""

import re
from pathlib import Path

from tests.support.paths import ROOT

INDEX = ROOT / "docs/index.md"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", flags=re.M | re.S)


def _links():
    """Return each relative link of each document: a line that names it, its target and its fragment."""
    for document in DOCUMENTS:
        for link in _relative_links(document):
            yield f"{document.relative_to(ROOT)} links to {link}", _resolved(document, link), link.partition("#")[2]


def _relative_links(document: Path) -> list[str]:
    """The targets of a document's links that are paths, code left out."""
    targets = LINK.findall(CODE.sub("", document.read_text()))
    return [t for t in targets if not re.match(r"[a-z]+:|#", t)]


def _resolved(document: Path, link: str) -> Path:
    return (document.parent / link.partition("#")[0]).resolve()


def _anchors(document: Path) -> set[str]:
    """The fragments that GitHub gives a document's headings."""
    headings = re.findall(
        r"^#+ (.+)$", CODE.sub(lambda m: m[0] if "\n" not in m[0] else "", document.read_text()), flags=re.M
    )
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}


def test_every_document_is_reachable_from_the_index():
    found, todo = set[Path](), [INDEX]
    while todo:
        document = todo.pop()
        if document in found or not document.is_file():
            continue
        found.add(document)
        if document.suffix == ".md":
            linked = [_resolved(document, link) for link in _relative_links(document)]
            todo += [path for path in linked if path.is_relative_to(ROOT / "docs")]
    missing = [str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md") if p not in found]
    assert not missing, f"no chain of links leads from docs/index.md to: {', '.join(sorted(missing))}"


def test_every_relative_link_points_to_something():
    broken = [line for line, target, _ in _links() if not target.exists()]
    assert not broken, f"nothing is there: {'; '.join(broken)}"


def test_every_fragment_names_a_heading():
    broken = [
        line
        for line, target, fragment in _links()
        if fragment and target.suffix == ".md" and fragment not in _anchors(target)
    ]
    assert not broken, f"no heading has that name: {'; '.join(broken)}"


def test_index_of_decisions_lists_all_of_them():
    folder = ROOT / "docs/decisions"
    listed = _relative_links(folder / "index.md")
    missing = [p.name for p in folder.glob("[0-9]*.md") if p.name not in listed]
    assert not missing, f"docs/decisions/index.md does not list: {', '.join(sorted(missing))}"
    assert len(listed) == len(set(listed)), "docs/decisions/index.md lists a decision twice"


def test_each_decision_has_status_and_date():
    for decision in (ROOT / "docs/decisions").glob("[0-9]*.md"):
        text = decision.read_text()
        assert re.search(r"^- Status: (accepted|superseded by \[)", text, flags=re.M), f"{decision.name}: no status"
        assert re.search(r"^- Date: \d{4}-\d\d-\d\d$", text, flags=re.M), f"{decision.name}: no date"
        assert text.startswith(f"# {decision.name[:4]}. "), f"{decision.name}: the title has another number"


def test_every_file_that_a_document_names_exists():
    roots = "server|steering|tiller|ui|tests|bench|recipes|tools|docs|deploy|sae_weights"
    named = re.compile(rf"`((?:{roots})/[\w./-]+\.(?:py|js|css|html|md|toml|json|jsonl|txt|yaml))`")
    missing = [
        f"{document.relative_to(ROOT)} names {path}"
        for document in DOCUMENTS
        if "decisions" not in document.parts
        for path in named.findall(document.read_text())
        if not (ROOT / path).exists()
    ]
    assert not missing, f"no such file: {'; '.join(missing)}"

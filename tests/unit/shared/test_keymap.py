"""The architecture page is drawn from the code; it must be current, and its links must lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lain_shared.keymap import renew

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("services/*/README.md"), *ROOT.glob("deploy/**/*.md")]
)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def test_the_architecture_page_is_current() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert renew(page) == page, "run: python -m lain_shared.keymap docs/architecture.md"


def _anchors(page: Path) -> set[str]:
    text = page.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'id="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        led_to = (page.parent / target).resolve() if target else page
        assert led_to.exists(), f"{target} does not exist"
        if anchor and led_to.suffix == ".md":
            assert anchor in _anchors(led_to), f"{target}#{anchor} does not exist"

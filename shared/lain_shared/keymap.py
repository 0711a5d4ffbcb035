"""The map of ``keys.py`` as Markdown: who writes and who reads each family. ``python -m lain_shared.keymap docs/architecture.md``.

The pages under ``docs/`` hold the generated part between two marker lines; a test fails when it is not current.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lain_shared.keys import DAEMONS, FAMILIES

BEGIN, END = "<!-- generated from lain_shared/keys.py: begin -->", "<!-- generated from lain_shared/keys.py: end -->"


def families_table() -> str:
    """One row a family: key, writers, readers, what it says."""
    rows = ["| family | key | written by | read by | says |", "|---|---|---|---|---|"]
    for family in FAMILIES:
        key = f"`/lain/{family.name}/" + "/".join(f"<{part}>" for part in family.parts) + "`"
        notes = [
            note
            for note, holds in (("on a lease", family.leased), ("each node only its own", family.per_node))
            if holds
        ]
        writers = ", ".join(family.writers) + (f" ({'; '.join(notes)})" if notes else "")
        own = [f"{reader} (its own node's)" for reader in family.node_readers]
        readers = (
            ", ".join([r for r in family.readers if r in DAEMONS] + [r for r in own if r.split()[0] in DAEMONS])
            or "(later daemons)"
        )
        rows.append(f'| <a id="{family.name}"></a>`{family.name}` | {key} | {writers} | {readers} | {family.says} |')
    return "\n".join(rows)


def daemons_graph() -> str:
    """A mermaid graph of the daemons that exist: an arrow for every family one writes and another reads."""
    lines = ["```mermaid", "flowchart LR"]
    for writer in DAEMONS:
        for reader in DAEMONS:
            between = [
                family.name
                for family in FAMILIES
                if writer in family.writers and reader in (*family.readers, *family.node_readers) and reader != writer
            ]
            if between:
                lines.append(f'    {writer} -- "{"<br>".join(between)}" --> {reader}')
    return "\n".join([*lines, "```"])


def generated() -> str:
    return "\n\n".join((BEGIN, daemons_graph(), families_table(), END))


def renew(page: str) -> str:
    """``page`` with its generated part renewed."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + generated() + after


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(renew(path.read_text()))

"""Resource templates: Jinja2 without anything that could read the reader or keep it busy.

Only texts that hold a template are rendered, on the parsed tree, so a parameter can never become a key, a list or more YAML. Beyond
Jinja2's sandbox, an expression may only be built of names, constants, a few filters and tests, comparisons and small arithmetic:
no attributes, no items, no calls, no loops, no assignments. What is left ends, and quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lain_sdk.manifest.faults import Faults, shorten
from lain_sdk.manifest.reading import Spot
from lain_sdk.manifest.source import Node, Shape, as_rendered, as_unknown

if TYPE_CHECKING:
    from lain_sdk.manifest.jinja import Environment

MAX_TEMPLATES = 200
MAX_TEMPLATE = 2048
"""Characters of one template."""
MAX_TEMPLATE_TOTAL = 24 * 1024
"""Characters of all different templates of a document."""
MAX_NESTING = 30
MAX_RENDERED = 64 * 1024
"""Characters that one template may give."""

Parameter = str | int | float | bool
FILTERS = ("default", "d", "lower", "upper", "trim", "int", "float", "string", "round", "abs", "length")
TESTS = ("defined", "undefined", "none", "number", "string", "eq", "ne", "lt", "le", "gt", "ge", "odd", "even", "in")


@dataclass(slots=True)
class Renderer:
    """Renders the templates of one document. ``strict``: a parameter that is not there is a fault, else the value waits for it."""

    parameters: Mapping[str, Parameter]
    faults: Faults
    strict: bool
    _environment: Environment | None = None
    _known: dict[str, str | None] = field(default_factory=dict)
    _characters: int = 0

    def render(self, node: Node) -> Node:
        """The tree with every template rendered; what cannot be rendered is reported and left as it was."""
        return self._node(Spot(node, (), self.faults))

    def _node(self, spot: Spot) -> Node:
        node = spot.node
        if node.shape is Shape.LIST:
            return replace(
                node, items=tuple(self._node(spot.under(index, item)) for index, item in enumerate(node.items))
            )
        if node.shape is Shape.MAP:
            return replace(
                node, entries=tuple((key, self._node(spot.under(key.text, value))) for key, value in node.entries)
            )
        if not isinstance(node.value, str) or not is_template(node.value):
            return node
        return self._scalar(spot, node.value)

    def _scalar(self, spot: Spot, source: str) -> Node:
        if source in self._known:
            text = self._known[source]
            return as_unknown(spot.node) if text is None else as_rendered(spot.node, text)
        self._characters += len(source)
        if len(self._known) >= MAX_TEMPLATES or self._characters > MAX_TEMPLATE_TOTAL:
            allowed = f"at most {MAX_TEMPLATES} different ones, {MAX_TEMPLATE_TOTAL} characters together"
            spot.refuse("there are too many templates", code="too_big", allowed=allowed)
            return as_unknown(spot.node)
        from lain_sdk.manifest import jinja  # noqa: PLC0415 - megabytes that only a template needs

        self._environment = self._environment or jinja.restricted()
        text = None
        try:
            text = jinja.render_text(source, self.parameters, self._environment)
        except jinja.UndefinedError as error:
            if self.strict:
                message = f"a parameter is missing: {shorten(error.message or '', 100)}"
                spot.refuse(
                    message,
                    code="template",
                    fix="give it under use_resources, or write {{ name | default('…') }} in the resource",
                )
        except jinja.TemplateError as error:
            spot.refuse(
                f"the template is refused: {shorten(error.message or str(error), 200)}",
                code="template",
                allowed=_ALLOWED,
            )
        except (
            ArithmeticError,
            TypeError,
            ValueError,
            RecursionError,
            AssertionError,
            SyntaxError,
            MemoryError,
        ) as error:
            spot.refuse(
                f"the template fails: {shorten(str(error) or type(error).__name__, 200)}",
                code="template",
                allowed=_ALLOWED,
            )
        self._known[source] = text
        return as_unknown(spot.node) if text is None else as_rendered(spot.node, text)


_ALLOWED = f"names, constants, comparisons, if, arithmetic on numbers, filters: {', '.join(FILTERS)}"


def is_template(text: str) -> bool:
    return "{{" in text or "{%" in text or "{#" in text


def parameters_of(node: Node) -> frozenset[str]:
    """The parameters that a document's templates name; those in broken templates are left out."""
    found = tuple(_templates(node))
    if not found:
        return frozenset()
    from lain_sdk.manifest import jinja  # noqa: PLC0415 - megabytes that only a template needs

    environment = jinja.restricted()
    names: set[str] = set()
    for text in found:
        try:
            names |= jinja.named_in(text, environment)
        except (jinja.TemplateError, RecursionError):
            continue
    return frozenset(names)


def _templates(node: Node) -> Iterator[str]:
    """The different templates of a document, the first ``MAX_TEMPLATES`` of them."""
    seen: set[str] = set()
    todo = [node]
    while todo and len(seen) < MAX_TEMPLATES:
        one = todo.pop()
        todo.extend(one.items)
        todo.extend(value for _, value in one.entries)
        if isinstance(one.value, str) and is_template(one.value) and one.value not in seen:
            seen.add(one.value)
            yield one.value

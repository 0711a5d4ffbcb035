"""Resource templates: Jinja2 without anything that could read the reader or keep it busy.

Only texts that hold a template are rendered, on the parsed tree, so a parameter can never become a key, a list or more YAML. Beyond
Jinja2's sandbox, an expression may only be built of names, constants, a few filters and tests, comparisons and small arithmetic:
no attributes, no items, no calls, no loops, no assignments. What is left ends, and quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment

from lain_sdk.manifest.faults import Faults, shorten
from lain_sdk.manifest.reading import Spot
from lain_sdk.manifest.source import Node, Shape, as_rendered, as_unknown

MAX_TEMPLATES = 200
MAX_TEMPLATE = 2048
"""Characters of one template."""
MAX_TEMPLATE_TOTAL = 24 * 1024
"""Characters of all different templates of a document."""
MAX_NESTING = 30
MAX_RENDERED = 64 * 1024
"""Characters that one template may give."""
_MAX_NUMBER = 10**15

Parameter = str | int | float | bool
FILTERS = ("default", "d", "lower", "upper", "trim", "int", "float", "string", "round", "abs", "length")
TESTS = ("defined", "undefined", "none", "number", "string", "eq", "ne", "lt", "le", "gt", "ge", "odd", "even", "in")
_ALLOWED_NODES: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Filter, nodes.Test, nodes.CondExpr, nodes.If,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat, nodes.Keyword, nodes.List,
    nodes.Tuple, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod,
)  # fmt: skip


class _Environment(SandboxedEnvironment):
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: ARG002
        return False

    def is_safe_callable(self, obj: Any) -> bool:  # noqa: ARG002
        return False

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for value in (left, right):
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not -_MAX_NUMBER <= value <= _MAX_NUMBER
            ):
                raise SecurityError(
                    f"{operator} takes numbers up to 10^15 only; join texts with ~, read them with | int"
                )
        return super().call_binop(context, operator, left, right)


def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, autoescape=False, cache_size=0, keep_trailing_newline=True)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    environment.tests = {name: environment.tests[name] for name in TESTS}
    return environment


@dataclass(slots=True)
class Renderer:
    """Renders the templates of one document. ``strict``: a parameter that is not there is a fault, else the value waits for it."""

    parameters: Mapping[str, Parameter]
    faults: Faults
    strict: bool
    _environment: _Environment = field(default_factory=_environment)
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
        text = None
        try:
            text = render_text(source, self.parameters, self._environment)
        except UndefinedError as error:
            if self.strict:
                message = f"a parameter is missing: {shorten(error.message or '', 100)}"
                spot.refuse(
                    message,
                    code="template",
                    fix="give it under use_resources, or write {{ name | default('…') }} in the resource",
                )
        except TemplateError as error:
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


def render_text(source: str, parameters: Mapping[str, Parameter], environment: _Environment | None = None) -> str:
    """One template rendered. Raises ``jinja2.TemplateError`` (``SecurityError`` for what is not taken here)."""
    environment = environment or _environment()
    tree = _checked(source, environment)
    template = environment.from_string(tree)
    size = 0
    parts: list[str] = []
    for part in template.generate(**parameters):
        size += len(part)
        if size > MAX_RENDERED:
            raise SecurityError(f"the template gives more than {MAX_RENDERED} characters")
        parts.append(part)
    return "".join(parts)


def _checked(source: str, environment: _Environment) -> nodes.Template:
    if len(source) > MAX_TEMPLATE:
        raise SecurityError(f"the template is longer than {MAX_TEMPLATE} characters")
    tree = environment.parse(source)
    for node in _walk(tree):
        if not isinstance(node, _ALLOWED_NODES):
            raise SecurityError(f"{type(node).__name__.lower()} is not taken in a resource's template")
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            raise SecurityError(f"there is no filter {node.name!r}")
        if isinstance(node, nodes.Test) and node.name not in TESTS:
            raise SecurityError(f"there is no test {node.name!r}")
    return tree


def _walk(tree: nodes.Node) -> Iterator[nodes.Node]:
    """Every node; ``SecurityError`` where they nest too deep for Python's own compiler."""
    todo = [(tree, 1)]
    while todo:
        node, depth = todo.pop()
        if depth > MAX_NESTING:
            raise SecurityError("the template is nested too deep")
        yield node
        todo.extend((child, depth + 1) for child in node.iter_child_nodes())


def parameters_of(node: Node) -> frozenset[str]:
    """The parameters that a document's templates name; those in broken templates are left out."""
    environment = _environment()
    names: set[str] = set()
    for text in _templates(node):
        try:
            names |= find_undeclared_variables(_checked(text, environment))
        except (TemplateError, RecursionError):
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

"""Templates by Jinja2: its sandbox, of which only what cannot read the reader or keep it busy is left.

A module of its own because few manifests hold a template, and Jinja2 is megabytes of memory to whoever reads manifests all day.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment

from lain_sdk.manifest.templates import FILTERS, MAX_NESTING, MAX_RENDERED, MAX_TEMPLATE, TESTS, Parameter

__all__ = ["Environment", "TemplateError", "UndefinedError", "named_in", "render_text", "restricted"]

_MAX_NUMBER = 10**15
_ALLOWED_NODES: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Filter, nodes.Test, nodes.CondExpr, nodes.If,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat, nodes.Keyword, nodes.List,
    nodes.Tuple, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod,
)  # fmt: skip


class Environment(SandboxedEnvironment):
    """No attribute, no call, no number that takes long."""

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


def restricted() -> Environment:
    """Nothing but the filters and tests that are taken."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, cache_size=0, keep_trailing_newline=True)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    environment.tests = {name: environment.tests[name] for name in TESTS}
    return environment


def render_text(source: str, parameters: Mapping[str, Parameter], environment: Environment | None = None) -> str:
    """One template rendered. Raises ``jinja2.TemplateError`` (``SecurityError`` for what is not taken here)."""
    environment = environment or restricted()
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


def _checked(source: str, environment: Environment) -> nodes.Template:
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


def named_in(source: str, environment: Environment) -> set[str]:
    """The parameters a template names. Raises ``TemplateError``."""
    return set(find_undeclared_variables(_checked(source, environment)))

"""Who may do what, beyond the right that each route declares: a registration needs the right on its name."""

from __future__ import annotations

from lain_shared.errors import Denied
from lain_shared.tokens import Access, Principal


def require(caller: Principal, access: Access, app: str, what: str) -> None:
    """``Denied`` unless ``caller`` has that right on ``app`` (which is not in the URL)."""
    if not caller.may(access, app):
        raise Denied(
            f"{caller.name} may not {what} {app!r}",
            why=f"it takes {access.value} rights on {app}",
            next="ask an operator for a token with that right: lainctl token create",
        )

"""console: apps, releases and operations; what should run."""

from importlib.metadata import version as _version


def version() -> str:
    """The version of this distribution."""
    return _version("lain-console")

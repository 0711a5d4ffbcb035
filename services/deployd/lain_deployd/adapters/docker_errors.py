"""What the Docker Engine refuses, in our words: every foreign exception ends here, told apart by status and by the Engine's own text."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import msgspec
from aiodocker import DockerError

from lain_deployd.agent.engine import (
    AddressTaken,
    ContainerNameTaken,
    EngineRefused,
    EngineUnavailable,
    ImageAbsent,
    ImageMissing,
    NoSuchContainer,
    NotRunning,
    RegistryUnreachable,
    TracesLeft,
)
from lain_shared.errors import LainError

CANNOT_CONNECT = 900
"""aiodocker's own status for an Engine that does not answer."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Foreign exceptions become ours. ``what`` failed, in words."""
    try:
        yield
    except DockerError as error:
        raise _told(what, error) from error
    except TimeoutError as error:
        raise EngineUnavailable(what, why="the Engine took too long to answer") from error
    except (aiohttp.ClientError, OSError, EOFError, asyncio.IncompleteReadError) as error:
        raise EngineUnavailable(what, why=str(error) or type(error).__name__) from error
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
        if isinstance(error, LainError):
            raise
        raise EngineRefused(what, why=f"it answered something we cannot read: {error!r}") from error


@contextmanager
def gone_is_fine(*also: int) -> Iterator[None]:
    """404 (and ``also``) is success: what should not be there is not there."""
    try:
        yield
    except DockerError as error:
        if error.status not in (404, *also):
            raise


def _told(what: str, error: DockerError) -> LainError:
    why = error.message.strip()
    low = why.lower()
    match error.status:
        case status if status == CANNOT_CONNECT:
            return EngineUnavailable(what, why=why, next="is dockerd running, and its socket shared with the agent?")
        case 404 if "no such image" in low or "manifest" in low or "repository" in low or "pull access" in low:
            return ImageAbsent(what, why=why)
        case 404 if "no such container" in low:
            return NoSuchContainer(what, why=why)
        case 409 if "is already in use by container" in low:
            return ContainerNameTaken(what, why=why)
        case 409:
            return NotRunning(what, why=why)
        case 403 if "address already in use" in low:
            return AddressTaken(what, why=why)
        case 500 if "failed to start shim" in low and "file exists" in low:
            return TracesLeft(what, why=why)
        case _:
            return EngineRefused(what, why=why)


def pull_failure(reference: str, error: LainError) -> LainError:
    """Told apart by the Engine's words: the registry said "there is none", or it could not be asked."""
    low = error.why.lower()
    registry, _, repository = reference.partition("/")
    if any(word in low for word in ("unauthorized", "authentication required", "no basic auth", "denied:")):
        return RegistryUnreachable(
            f"registry {registry} does not let this node in", why=error.why,
            next="check the agent's registry user and password file", retry_seconds=30.0,
        )  # fmt: skip
    missing = ("manifest unknown", "not found", "name unknown", "does not exist", "no such image", "not known")
    unreachable = ("dial tcp", "connection refused", "no such host", "timeout", "x509", "tls:", "eof", "deadline")
    if isinstance(error, ImageAbsent) or (
        any(word in low for word in missing) and not any(word in low for word in unreachable)
    ):
        return ImageMissing(
            f"registry {registry} has no image {repository}", why=error.why, next="push it again: lain push"
        )
    if "unknown blob" in low or "blob unknown" in low:  # containerd's words, the registry's
        return ImageMissing(
            f"registry {registry} has image {repository} only in part", why=error.why, next="push it again: lain push"
        )
    if any(word in low for word in unreachable) or 'get "http' in low:
        return RegistryUnreachable(
            f"registry {registry} cannot be reached from this node", why=error.why,
            next=f"is the registry up, and can this node reach {registry}?", retry_seconds=5.0,
        )  # fmt: skip
    return EngineRefused(f"image {repository} cannot be pulled", why=error.why)

"""Why an image cannot be pulled, told from the Engine's words: "there is none" fails a release at once, "cannot be asked" is retried."""

from __future__ import annotations

import pytest

from lain_deployd.adapters.docker_errors import pull_failure
from lain_deployd.agent.engine import EngineRefused, ImageMissing, RegistryUnreachable
from lain_shared.errors import LainError

IMAGE = "10.0.0.1:5000/hello@sha256:1"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("manifest for 10.0.0.1:5000/hello@sha256:1 not found: manifest unknown: manifest unknown", ImageMissing),
        ("error pulling image configuration: download failed after attempts=1: unknown blob", ImageMissing),
        ("blob unknown: blob unknown to registry", ImageMissing),
        ('Get "https://10.0.0.1:5000/v2/": dial tcp 10.0.0.1:5000: connect: connection refused', RegistryUnreachable),
        ('Get "https://10.0.0.1:5000/v2/": x509: certificate signed by unknown authority', RegistryUnreachable),
        ('Head "https://10.0.0.1:5000/v2/hello": unauthorized: authentication required', RegistryUnreachable),
        ("no space left on device", EngineRefused),
    ],
)
def test_why_an_image_cannot_be_pulled(said: str, kind: type[LainError]) -> None:
    found = pull_failure(IMAGE, EngineRefused("it cannot be pulled", why=said))
    assert type(found) is kind
    assert found.why == said
    assert "lain push" in found.next or kind is not ImageMissing

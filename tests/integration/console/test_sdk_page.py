"""The ten lines of docs/sdk.md run as they stand."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from lain_sdk.client import Console
from tests.fixtures.console import ClusterForConsole

PAGE = Path(__file__).parents[3] / "docs" / "sdk.md"


async def test_ten_lines_deploy_wait_and_roll_back(
    cluster: ClusterForConsole, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = await cluster.console()
    lain = await cluster.client(console)
    await lain.register("hello")
    await cluster.release("1-aaa")
    first = await lain.deploy("hello")
    assert first.operation is not None
    await lain.wait("hello", first.operation.id)
    await cluster.release("2-bbb")
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)[0]
    code = code.replace("https://10.77.0.11:9510", console.url).replace("asyncio.run(main())", "")
    monkeypatch.setenv("LAIN_TOKEN", await cluster.token())
    body = code[code.index("async with") :].strip().splitlines()
    assert len(body) <= 10, "ten lines"
    names: dict[str, object] = {}
    exec(compile(code, "sdk.md", "exec"), names)  # noqa: S102 - our own page
    main = names["main"]
    async with asyncio.timeout(20):
        await main()  # type: ignore[operator]
    told = capsys.readouterr().out.splitlines()
    assert "deploy of release 2 (2-bbb)" in told
    assert [line for line in told if line.strip() == "succeeded"] != []
    assert (await lain.app("hello")).meta_version == "1-aaa"


def test_the_client_is_what_the_page_says() -> None:
    for name in re.findall(r"lain\.(\w+)\(", PAGE.read_text()):
        assert hasattr(Console, name), name

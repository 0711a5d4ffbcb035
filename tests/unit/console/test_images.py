"""Nodes keep the images of what can be gone back to: from the moment a release is written until it is forgotten."""

from __future__ import annotations

import pytest

from lain_console.apps import Apps
from lain_console.images import AGAIN_SECONDS, Keeping, images_of
from lain_console.operations.driver import RELEASES_KEPT
from lain_shared import keys
from lain_shared.model.app import AppState, Outcome
from lain_shared.model.image import KeptImages
from tests.unit.console.builders import Bench, Console, proc, release_of, web


@pytest.fixture
async def console(bench: Bench) -> Console:
    await bench.register()
    return await bench.console()


def image(number: int) -> str:
    return f"hello@sha256:{number:064x}"


async def kept(bench: Bench) -> dict[int, tuple[str, ...]]:
    return {stored.value.release: stored.value.images for stored in await bench.state.kept_images.list("hello")}


async def deploy(bench: Bench, console: Console, number: int) -> None:
    await console.deploy(release_of(number, web(number)))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED


def test_each_image_of_a_release_once_and_in_order() -> None:
    release = release_of(3, web(7), proc("worker", 7), proc("migrate", 2))
    assert images_of(release) == KeptImages("hello", 3, (image(2), image(7)))


async def test_from_its_first_transaction_until_it_is_pruned(bench: Bench, console: Console) -> None:
    await console.deploy(release_of(1, web(1)))
    assert await kept(bench) == {1: (image(1),)}, "before any node is told to run it"
    assert await bench.run(console) is not None
    for number in range(2, RELEASES_KEPT + 4):
        await deploy(bench, console, number)
    releases = {stored.value.number for stored in await bench.state.releases.list("hello")}
    assert set(await kept(bench)) == releases and 1 not in releases and RELEASES_KEPT + 3 in releases


async def test_out_of_service_keeps_none_and_a_new_deploy_keeps_all_again(bench: Bench, console: Console) -> None:
    for number in (1, 2):
        await deploy(bench, console, number)
    await Apps(bench.state, console.starter, bench.clock).undeploy("hello", "ann")
    assert set(await kept(bench)) == {1, 2}, "it may be told to run until it is gone"
    assert await bench.run(console) is not None
    assert await kept(bench) == {}
    keeping = Keeping(bench.state)
    assert await keeping.one_pass() is None and await kept(bench) == {}

    await console.deploy(release_of(3, web(3)))
    assert await keeping.one_pass() == AGAIN_SECONDS, "busy: the operation's own transactions see to it"
    assert await bench.run(console) is not None
    assert await keeping.one_pass() is None
    assert await kept(bench) == {1: (image(1),), 2: (image(2),), 3: (image(3),)}


async def test_a_failed_first_deploy_keeps_nothing(bench: Bench, console: Console) -> None:
    await console.deploy(release_of(1, web(1)))
    await console.starter.cancel("hello", "ann")
    assert await bench.run(console) is not None
    assert (await bench.app()).state is AppState.FAILED and await kept(bench) == {}


async def test_releases_of_before_are_kept_too_and_what_is_right_is_not_written(bench: Bench, console: Console) -> None:
    for number in (1, 2):
        await deploy(bench, console, number)
    await bench.state.kept_images.delete("hello", 1)
    await bench.state.kept_images.put(KeptImages("hello", 9, (image(9),)), "hello", 9)
    await bench.state.kept_images.put(KeptImages("gone", 1, ()), "gone", 1)
    keeping = Keeping(bench.state)
    assert await keeping.one_pass() is None
    assert set(await kept(bench)) == {1, 2} and await bench.state.kept_images.list("gone") == ()
    before = await bench.store.list(keys.KEPT_IMAGES.prefix)
    assert await keeping.one_pass() is None
    assert await bench.store.list(keys.KEPT_IMAGES.prefix) == before


async def test_what_nobody_can_read_is_kept(bench: Bench, console: Console) -> None:
    for number in (1, 2):
        await deploy(bench, console, number)
    await bench.store.put(keys.RELEASES.key("hello", 1), b'{"v":99}')
    await bench.store.put(keys.APPS.key("strange"), b'{"v":99}')
    await bench.state.kept_images.put(KeptImages("strange", 1, ()), "strange", 1)
    assert await Keeping(bench.state).one_pass() is None
    assert set(await kept(bench)) == {1, 2} and await bench.state.kept_images.list("strange") != ()


async def test_a_name_given_back_leaves_none(bench: Bench, console: Console) -> None:
    await bench.state.kept_images.put(KeptImages("hello", 1, (image(1),)), "hello", 1)
    await Apps(bench.state, console.starter, bench.clock).unregister("hello", "ann")
    assert await kept(bench) == {}


def test_agents_learn_of_releases_nothing_but_their_images() -> None:
    read = {grant.prefix for grant in keys.grants("agent", "n1")}
    assert keys.KEPT_IMAGES.prefix in read
    assert not {keys.RELEASES.prefix, keys.APPS.prefix, keys.DESIRED.prefix} & read

"""Every kind of bad release over a good one under load: the good one serves on, the bad one fails in time and says why, all is as before.

Each fault is a commit of one repository, shipped by the command line as a person would. What is asked of the explanation is the cause, what
was seen of it, and the next command; of the cluster, that ``stage/order.py`` finds all in order and every pod is the one from before.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from bench.__main__ import Options
from bench.report import Proof
from bench.stage.cluster import Stage, stage
from bench.stage.load import Load
from bench.stage.node import Node
from bench.stage.order import Look, in_order
from bench.stage.truth import Truth
from lain_shared import keys
from lain_shared.model.pod import ProcType
from tests.fixtures.cluster import App, Ended

DESCRIPTION = (
    "bad releases of every kind: the old version serves on, the failure is in time and explained, everything is back"
)
REQUESTS_A_SECOND = 20.0
DEADLINE_SECONDS = 20.0
BACK_SECONDS = 10.0
"""What going back may take, after the deadline."""
ORDER_SECONDS = 60.0
PATIENCE_SECONDS = 60.0
"""How much longer than its time a command is waited for."""
ROLLED_BACK, REFUSED, NOT_FOUND = 4, 3, 1
APP, RIVAL, SHARED_HOST = "faulty", "rival", "shared.lain.localhost"


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of bad release. ``edit``: what of the manifest (or a file) makes it so. ``says``: words the explanation must have.

    ``within``: seconds from the command to its end. ``code``: how the command ends. ``while_``: what is done to the cluster meanwhile.
    """

    name: str
    edit: tuple[str, str]
    says: tuple[str, ...]
    within: float = DEADLINE_SECONDS + BACK_SECONDS
    code: int = ROLLED_BACK
    while_: Callable[[Ground], AbstractContextManager[None]] = lambda _: nullcontext()
    pushed: bool = True


@dataclass(slots=True)
class Ground:
    there: Stage
    node: Node
    truth: Truth
    app: App
    version: str = ""
    """The one that is about to be deployed."""


WEB, MIGRATE = "  deploy_deadline_seconds: 20\n  env: [FAULT=none]", "  memory: 64m\n  env: [FAULT=none]"


def web(fault: str, more: str = "") -> tuple[str, str]:
    return (WEB, f"  deploy_deadline_seconds: 20\n{more}  env: [FAULT={fault}]")


def run(proof: Proof, options: Options) -> None:
    chosen = [fault for fault in FAULTS if not options.quick or fault.name in QUICK]
    with (
        stage(proof) as there,
        Node.of(there.cluster.container) as node,
        Truth.of(there.cluster, node) as truth,
    ):
        proof.say("the good release")
        ground = Ground(there, node, truth, there.app("faulty", APP))
        ground.app.ship()
        rival = there.app("faulty", RIVAL)
        rival.ship()
        with Load.running(80, [ground.app.host], rate=REQUESTS_A_SECOND, address=truth.address) as load:
            for fault in chosen:
                one_fault(proof, ground, load, fault)
            taken_meanwhile(proof, ground, load, rival)


def one_fault(proof: Proof, ground: Ground, load: Load, fault: Fault) -> None:
    app = ground.app
    before = in_order(ground.truth, ground.node, ORDER_SECONDS)
    app.edit("lain.yaml", lambda text: text.replace(fault.edit[0], fault.edit[1]))
    app.commit(fault.name)
    ground.version = app.lain("meta").out.strip()
    if fault.pushed:
        app.lain("build")
        app.lain("push")
    began = time.time()
    with fault.while_(ground):
        ended = app.lain("deploy", "--version", ground.version, code=None, seconds=fault.within + PATIENCE_SECONDS)
        took = time.time() - began
        told = app.lain("explain", code=None)
    judge(proof, fault, ended, told, took)
    as_before(proof, ground, fault.name, before)
    served(proof, fault.name, load, began)
    app.edit("lain.yaml", lambda text: text.replace(fault.edit[1], fault.edit[0]))
    app.commit("as it was")


def judge(proof: Proof, fault: Fault, ended: Ended, told: Ended, took: float) -> None:
    case = proof.case(fault.name, unit="s")
    case.add("lain", took)
    case.target("command to its failure", took, at_most=fault.within)
    case.target(f"ends with {fault.code}", ended.code, at_least=fault.code, at_most=fault.code)
    refused = fault.code in (REFUSED, NOT_FOUND)
    text = f"{ended.out}\n{ended.err}" if refused else told.out
    missing = [word for word in fault.says if word.lower() not in text.lower()]
    case.target("words of the cause that the explanation lacks", len(missing), at_most=0)
    case.target("next commands it names", text.count("next") + text.count("→"), at_least=1)
    proof.say(f"{fault.name}: {took:.1f} s, ended with {ended.code}" + (f", does not say {missing}" if missing else ""))
    for line in text.strip().splitlines():
        case.note(line)
    if ended.code != fault.code:
        for line in f"{ended.out}\n{ended.err}".splitlines()[-15:]:
            case.note(f"the command said: {line}")


def as_before(proof: Proof, ground: Ground, name: str, before: Look) -> None:
    """Everything is back: in order, the same pods, the same claims."""
    case = proof.case(name)
    after = in_order(ground.truth, ground.node, ORDER_SECONDS)
    once = oneshots(before) | oneshots(after)
    was, now = (
        {pod: box.run for pod, box in seen.pods.items() if proc_of(pod) not in once} for seen in (before, after)
    )
    moved = sorted(pod for pod in was.keys() | now.keys() if was.get(pod) != now.get(pod))
    case.target("pods that are other ones than before", len(moved), at_most=0)
    claims = [
        family.name for family in (keys.ROUTES, keys.HOSTS) if before.picture.keys(family) != after.picture.keys(family)
    ]
    case.target("families of claims that changed", len(claims), at_most=0)
    for text in (*moved, *claims):
        case.note(f"not as before: {text}")


def oneshots(seen: Look) -> frozenset[str]:
    """``<app>.<proc>`` of what runs once a release: its pods come and go with each, and serve nobody."""
    wanted = (each for each, _ in seen.picture.all(keys.DESIRED).values())
    return frozenset(f"{each.app}.{each.proc}" for each in wanted if each.type is ProcType.ONESHOT)


def proc_of(pod: str) -> str:
    """``hello.web-1.g42`` → ``hello.web``."""
    return pod.rpartition(".")[0].rpartition("-")[0]


def served(proof: Proof, name: str, load: Load, began: float) -> None:
    window = load.window(began, time.time())
    case = proof.case(name)
    case.target(f"failed of {window.requests} requests", len(window.failures), at_most=0)
    case.target("requests", window.requests, at_least=10)
    for text in window.named(3):
        case.note(text)


# --- what is done to the cluster meanwhile ----------------------------------------------------------------------------


@contextmanager
def agent_held(ground: Ground) -> Iterator[None]:
    """The agent stands still: what is planned now is pulled later."""
    ground.node.run("docker", "pause", "lain-agent")
    try:
        yield
    finally:
        ground.node.run("docker", "unpause", "lain-agent")


@contextmanager
def after_the_plan(ground: Ground, do: Callable[[], object]) -> Iterator[None]:
    """``do`` between the plan and the pull of the operation that begins in the block."""
    done = threading.Event()

    def watch() -> None:
        with contextlib.suppress(Exception), agent_held(ground):
            deadline = time.monotonic() + 4  # less than the node's lease
            while time.monotonic() < deadline and APP not in ground.truth.picture().keys(keys.OPERATIONS):
                time.sleep(0.02)
            do()
        done.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.wait(30)


@contextmanager
def image_deleted(ground: Ground) -> Iterator[None]:
    folder = f"/var/lib/lain/registry/docker/registry/v2/repositories/{APP}/_manifests/revisions"
    with after_the_plan(ground, lambda: ground.node.sh(f"mv {folder} {folder}-away")):
        yield
    ground.node.sh(f"mv {folder}-away {folder}")


@contextmanager
def layer_deleted(ground: Ground) -> Iterator[None]:
    folder = f"/var/lib/lain/registry/docker/registry/v2/repositories/{APP}/_layers"
    with after_the_plan(ground, lambda: ground.node.sh(f"mv {folder} {folder}-away")):
        yield
    ground.node.sh(f"mv {folder}-away {folder}")


@contextmanager
def registry_down(ground: Ground) -> Iterator[None]:
    with after_the_plan(ground, lambda: ground.node.run("docker", "stop", "lain-registry")):
        yield
    ground.node.run("docker", "start", "lain-registry")
    ground.there.wait_ready("registry")


FAULTS = (
    Fault("image never pushed", web("none", "  cpu: 1\n"), ("has no version", "lain push"), within=10, code=NOT_FOUND, pushed=False),
    Fault("image deleted after the plan", web("none", "  cpu: 2\n"), ("image", "registry", "lain push"), while_=image_deleted),
    Fault("layer deleted after the plan", web("none", "  cpu: 3\n"), ("image", "registry", "lain push"), while_=layer_deleted),
    Fault("registry down", web("none", "  cpu: 4\n"), ("registry", "reach"), while_=registry_down),
    Fault("exits at once", web("exit"), ("exit code 3", "cannot open config.toml", "lain deploy")),
    Fault(
        "exits after 20 s", (WEB, "  deploy_deadline_seconds: 60\n  min_ready_seconds: 25\n  env: [FAULT=exit-late]"),
        ("exit code 4", "the licence has expired", "lain deploy"), within=80 + BACK_SECONDS,
    ),
    Fault("never ready", web("never-ready"), ("/healthz", "8000", "longer than 3 s", "lain deploy")),
    Fault("out of memory", web("memory"), ("memory", "64", "lain scale")),
    Fault("wrong port", web("port"), ("8000", "refused", "lain deploy")),
    Fault("probe answers 500", web("probe-500"), ("500", "/healthz", "lain deploy")),
    Fault(
        "migration fails", (MIGRATE, MIGRATE.replace("none", "migration")), ("migrate", "exit code 7", "column users.age exists already"),
    ),
)  # fmt: skip
QUICK = ("image deleted after the plan", "exits at once", "never ready", "migration fails")


def taken_meanwhile(proof: Proof, ground: Ground, load: Load, rival: App) -> None:
    """Two apps plan the same new host at the same time: one gets it, the other is refused by name, and serves on."""
    name = "host taken meanwhile"
    case = proof.case(name, unit="s")
    before = in_order(ground.truth, ground.node, ORDER_SECONDS)
    ended: dict[str, Ended] = {}
    took: dict[str, float] = {}
    apps = (ground.app, rival)
    for app in apps:
        app.edit("lain.yaml", lambda text: text + f"  mountpoint: [{SHARED_HOST}]\n")
        app.commit("a host of its own")
        app.lain("build")
        app.lain("push")
    began = time.time()

    def deploy(app: App) -> None:
        ended[app.name] = app.lain("deploy", code=None)
        took[app.name] = time.time() - began

    threads = [threading.Thread(target=deploy, args=(app,)) for app in apps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [app for app in apps if ended[app.name].code == 0]
    losers = [app for app in apps if app not in winners]
    case.target("apps that got the host", len(winners), at_least=1, at_most=1)
    for app in losers:
        told = ended[app.name]
        text = f"{told.out}\n{told.err}"
        case.add("lain", took[app.name])
        case.target("command to its refusal", took[app.name], at_most=10)
        case.target(f"ends with {REFUSED}", told.code, at_least=REFUSED, at_most=REFUSED)
        wanted: list[Any] = [SHARED_HOST, *(winner.name for winner in winners), "next"]
        case.target("words of the cause that are lacking", sum(word not in text for word in wanted), at_most=0)
        for line in text.strip().splitlines():
            case.note(line)
    after = in_order(ground.truth, ground.node, ORDER_SECONDS)
    owner = {claim.app for claim, _ in after.picture.all(keys.ROUTES).values() if claim.host == SHARED_HOST}
    case.target("apps routed at it", len(owner), at_least=1, at_most=1)
    lost = [
        pod for pod in before.pods if pod.startswith(tuple(f"{app.name}." for app in losers)) and pod not in after.pods
    ]
    case.target("pods of the refused app that are gone", len(lost), at_most=0)
    served(proof, name, load, began)
    proof.say(f"{name}: {[(app, told.code) for app, told in ended.items()]}")

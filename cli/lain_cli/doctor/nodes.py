"""Nodes and what each says of itself; routers; the registry; parts that do not run. Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from lain_cli.doctor.report import PROBLEM, WARNING, Check, Site, code_of, listed, ok, skipped, steps
from lain_cli.doctor.sight import Sight
from lain_cli.render import ago, count
from lain_shared import conditions as words
from lain_shared.contact import Contact, Reached
from lain_shared.deployd_views import NodeView, RouterView
from lain_shared.errors import LainError
from lain_shared.model.node import Condition, ConditionStatus

ELSEWHERE = (words.REGISTRY_UNAVAILABLE, words.ETCD_MEMBER_UNREACHABLE, words.PART_DOWN)
"""Conditions that are told with what they are about."""


def judge(sight: Sight, site: Site, etcd_down: bool) -> list[Check]:
    views = sight.nodes
    if sight.platform is None:
        return [skipped("nodes", "no API could be asked")]
    if not views:
        if etcd_down:
            return [skipped("nodes", "etcd does not answer: nobody knows them")]
        why = "there is nothing to run anything on"
        return [Check("nodes", PROBLEM, "no node is registered", "no_nodes", why, next="docs/install.md")]
    found: list[Check] = []
    if etcd_down:
        found.append(
            skipped("nodes", "etcd takes no writes: nobody's presence can be known; what nodes said before is told")
        )
    else:
        found += [_away(view, sight, site) for view in views if view.alive is None]
    found += _conditions(views, site, sight.now, unreadable=_unreadable(sight))
    found += [_cordoned(view) for view in views if view.node.cordoned or view.draining]
    if not found:
        looked = max((len(view.state.conditions) for view in views if view.state is not None), default=0)
        found.append(ok("nodes", f"{count(len(views), 'node')} alive; each looked for {count(looked, 'fault')}"))
    return found


def _unreadable(sight: Sight) -> bool:
    platforms = (sight.by_deployd, sight.by_console)
    return any(one is not None and not isinstance(one, LainError) and bool(one.unreadable) for one in platforms)


# --- presence ---------------------------------------------------------------------------------------------------------


def _away(view: NodeView, sight: Sight, site: Site) -> Check:
    """Why its agent is not present, as far as one can see from here."""
    name = view.node.name
    contact = sight.agents.get(name)
    why = "its pods may run on, and nobody can see or change them; those that may move are replaced elsewhere"
    start = "docker start lain-agent"
    logs = site.on(name, "docker logs --tail 50 lain-agent")
    if view.state is None and contact is not None and contact.reached is not Reached.ANSWERED:
        why = "it was registered, and its agent has never said anything"

    def check(code: str, found: str, next: str, command: str = "") -> Check:
        evidence = (
            (f"its agent, asked from here at {contact.address}: {contact.error or _says(contact)}",) if contact else ()
        )
        return Check(
            f"node {name}", PROBLEM, f"node {name} is away: {found}", code, why, evidence, next, command, name, "agent"
        )

    if contact is None:
        return check("node_away", "its agent does not renew its presence", logs)
    match contact.reached:
        case Reached.REFUSED:
            next = steps(site.on(name, start), f"if it ends again: {logs}")
            return check("agent_down", "the machine is there, its agent does not run", next, start)
        case Reached.UNREACHABLE:
            next = f"is the machine up? ping {view.node.address}; look at its console or its power"
            return check("node_unreachable", "the machine does not answer: it is down, or cut off", next)
        case Reached.SILENT:
            command = "docker restart lain-agent"
            return check("agent_silent", "its agent runs and hangs", site.on(name, command), command)
        case Reached.CERTIFICATE:
            next = steps(site.on(name, f"date; {words.RENEW}"), logs)
            return check("agent_certificate", f"its agent's certificate is not accepted ({_verdict(contact)})", next)
        case _:
            next = steps(logs, f"can it reach etcd? {site.on(name, 'docker logs --tail 20 lain-etcd')}")
            return check("agent_not_present", "its agent runs and cannot say that it is there", next)


def _verdict(contact: Contact) -> str:
    return contact.error.removeprefix("its certificate: ")


def _says(contact: Contact) -> str:
    """The reasons in an answer of ``/readyz``."""
    try:
        document = json.loads(contact.body)
        reasons = document.get("reasons") or document.get("not_ready") or document
    except (ValueError, AttributeError):
        return f"it answered {contact.status}"
    if not isinstance(reasons, dict):
        return f"it answered {contact.status}"
    told = [f"{name}: {why}" for name, why in reasons.items() if isinstance(why, str)]
    return "it says " + "; ".join(told[:5]) if told else f"it answered {contact.status}"


def _cordoned(view: NodeView) -> Check:
    name = view.node.name
    if view.draining:
        found, code = f"node {name} is being drained", "node_draining"
        why, next = (
            "its pods are moved away and no new ones come; it stays so until somebody ends it",
            f"lainctl node inspect {name}",
        )
    else:
        found, code = f"node {name} is cordoned", "node_cordoned"
        why, next = "it gets no new pods; it stays so until somebody takes it back", f"lainctl node inspect {name}"
    return Check(f"node {name}", WARNING, found, code, why, (), next, node=name)


# --- conditions -------------------------------------------------------------------------------------------------------


def _conditions(views: Sequence[NodeView], site: Site, now: float, *, unreadable: bool) -> list[Check]:
    """One check a fault: what many nodes have is one thing, with each of them as evidence."""
    by_kind: dict[tuple[str, str], list[tuple[NodeView, Condition]]] = defaultdict(list)
    for view in views:
        for condition in words.found(view.state.conditions) if view.state is not None else ():
            if condition.type in ELSEWHERE or (condition.type == words.RECORDS_UNREADABLE and unreadable):
                continue
            by_kind[condition.type, condition.reason].append((view, condition))
    found = [_condition(which, site, now) for _, which in sorted(by_kind.items())]
    for view in views:
        if (
            view.state is not None and not view.state.conditions and view.state.problems
        ):  # an agent that knows of no conditions
            name = view.node.name
            found.append(
                Check(f"node {name}", WARNING, f"node {name} reports a problem", "node_problem", "", view.state.problems,
                      f"lainctl node inspect {name}", node=name)
            )  # fmt: skip
    return found


def _condition(which: Sequence[tuple[NodeView, Condition]], site: Site, now: float) -> Check:
    first_view, first = which[0]
    told = words.advice(first)
    names = [view.node.name for view, _ in which]
    block = first_view.state.block if first_view.state is not None else ""
    step = words.step(first, local=bool(site.local), block=block)
    subject = f"node {names[0]}" if len(names) == 1 else f"nodes {listed(names)}"
    evidence = tuple(
        f"{view.node.name}: {condition.message} (for {ago(condition.since, now)})" for view, condition in which
    )
    return Check(
        subject, PROBLEM if told.urgent else WARNING, f"{subject}: {told.what}", code_of(first.type), told.why, evidence,
        steps(step.before, site.on(listed(names), step.command), step.then), step.command, names[0],
    )  # fmt: skip


# --- registry ---------------------------------------------------------------------------------------------------------


def registry(sight: Sight, site: Site) -> list[Check]:
    """As this machine and every node find it."""
    contact = sight.contacts.get("registry")
    said = [(view.node.name, one) for view in sight.nodes for one in _of_type(view, words.REGISTRY_UNAVAILABLE)]
    reached = contact is None or (contact.reached is Reached.ANSWERED and contact.status < 500)
    if reached and not said:
        return [
            ok("registry", f"{contact.address} answers")
            if contact
            else skipped("registry", "the phase has no registry address")
        ]
    first = said[0][1] if said else Condition(words.REGISTRY_UNAVAILABLE, ConditionStatus.TRUE, "Unreachable")
    told = words.advice(first)
    evidence = [f"{name}: {one.message} (for {ago(one.since, sight.now)})" for name, one in said]
    if contact is not None and not reached:
        evidence.insert(0, f"from here: {contact.address}: {contact.error or f'it answered {contact.status}'}")
    if said and reached:
        names = [name for name, _ in said]
        found = f"{'node' if len(names) == 1 else 'nodes'} {listed(names)}: {told.what}"
    else:
        found = "the registry does not answer"
    if site.local or first.reason == "Unreachable":
        command = "docker start lain-registry" if first.reason == "Unreachable" else told.do
        next = steps(
            site.on(site.node or "the registry's node", command),
            "" if site.local else "is the address right? lain config show",
        )
    else:
        command, next = told.do, site.on("the registry's node", told.do)
    code = code_of(words.REGISTRY_UNAVAILABLE)
    return [Check("registry", PROBLEM, found, code, told.why, tuple(evidence), next, command, site.node, "registry")]


def _of_type(view: NodeView, type: str) -> tuple[Condition, ...]:
    return (
        tuple(one for one in words.found(view.state.conditions) if one.type == type) if view.state is not None else ()
    )


# --- routers ----------------------------------------------------------------------------------------------------------


def routers(sight: Sight, site: Site, etcd_down: bool) -> list[Check]:
    if etcd_down:
        return [skipped("routers", "etcd takes no writes: what they have applied cannot be known; they route on")]
    if sight.routers is None or isinstance(sight.routers, LainError):
        return [skipped("routers", "the controller could not be asked")]
    if not sight.routers:
        why, next = "nobody reaches an app by its host name", "does a watcher run on a node labelled router=true?"
        return [Check("routers", PROBLEM, "no router has registered", "no_router", why, next=next)]
    dead = {
        view.node.name
        for view in sight.nodes
        if view.alive is None and (contact := sight.agents.get(view.node.name)) is not None
        and contact.reached is Reached.UNREACHABLE
    }  # fmt: skip
    found = [check for router in sight.routers if router.node not in dead for check in _router(router, sight, site)]
    return found or [ok("routers", f"{count(len(sight.routers), 'router')} serving what is wanted")]


def _router(router: RouterView, sight: Sight, site: Site) -> list[Check]:
    name, node, state = router.router, router.node, router.state
    subject = f"router {name}"

    def check(part: str, code: str, found: str, why: str, *seen: str) -> Check:
        command = "docker restart lain-watcher" if code == "router_behind" else f"docker start lain-{part}"
        logs = site.on(node, f"docker logs --tail 50 lain-{part}")
        next = steps(site.on(node, command), f"if that is not it: {logs}")
        return Check(subject, PROBLEM, f"{subject}{found}", code, why, seen, next, command, node, part)

    if state is None:
        contact = sight.watchers.get(node)
        seen = (
            [f"its watcher, asked from here at {contact.address}: {contact.error or _says(contact)}"] if contact else []
        )
        why = "its nginx routes on by the last table and learns of no change: rollouts wait for it, and then go on without it"
        return [check("watcher", "watcher_down", ": its watcher does not run", why, *seen)]
    found: list[Check] = []
    applied = f"it last applied a change {ago(state.applied_at, sight.now)} ago, revision {state.applied_revision}"
    if not state.boot_id:
        why = "nobody reaches an app by its host name through it"
        told = "its watcher sees no nginx process"
        found.append(check("nginx", "nginx_down", ": its nginx does not run", why, told, applied))
    elif router.behind and name in sight.still_behind:
        why = "rollouts of these procs wait for it, and visitors may be sent to what is no more"
        text = " is behind: it does not serve the newest endpoints"
        found.append(check("nginx", "router_behind", text, why, f"behind on {listed(router.behind)}", applied))
    for app, why in sorted(state.quarantined.items()):
        text = f"{subject} serves {app} by its last good routes"
        means = "what its manifest asks of the router cannot be used"
        found.append(Check(subject, WARNING, text, "app_quarantined", means, (why,), f"lain explain --app {app}"))
    for app in state.not_applied:
        logs = site.on(node, "docker logs --tail 50 lain-watcher")
        text = f"{subject} could not apply the addresses of {app}"
        means = "rollouts of this app pause until it can"
        found.append(Check(subject, PROBLEM, text, "app_not_applied", means, (), f"lain explain --app {app}; {logs}"))
    return found


# --- parts ------------------------------------------------------------------------------------------------------------

PART_CODES = {"registry": "registry_unavailable"}
PART_WORDS = {"exited": "docker start", "created": "docker start", "dead": "docker restart", "paused": "docker unpause"}


def with_parts(found: Iterable[Check], sight: Sight, site: Site) -> tuple[Check, ...]:
    """Parts of the platform that do not run: evidence where their loss was found, else a finding of their own."""
    checks = list(found)
    for (node, part), (state, seen) in sorted(_parts_down(sight).items()):
        at = next((i for i, one in enumerate(checks) if one.bad and one.part == part and one.node in ("", node)), None)
        verb = PART_WORDS.get(state)
        command = f"{verb} lain-{part}" if verb else ""
        logs = site.on(node, f"docker logs --tail 50 lain-{part}")
        next_ = steps(site.on(node, command), f"if it ends again: {logs}") if verb else logs
        if part == "agent" and at is None and any(one.part == "agent" and one.bad for one in checks):
            continue
        if at is not None:
            checks[at] = replace(checks[at].seen(seen), next=next_, command=command, node=node)
            continue
        reason = "Paused" if state == "paused" else ""
        why = words.advice(Condition(words.PART_DOWN, ConditionStatus.TRUE, reason)).why
        found_ = f"node {node}: lain-{part} is {state}"
        code = PART_CODES.get(part) or f"{part}_{'silent' if state == 'paused' else 'down'}"
        checks.append(Check(f"node {node}", PROBLEM, found_, code, why, (seen,), next_, command, node, part))
    for view in sight.nodes:  # members of etcd that a node cannot reach belong to etcd's own finding
        for condition in _of_type(view, words.ETCD_MEMBER_UNREACHABLE):
            checks = _etcd_member(checks, view, condition, sight, site)
    return tuple(checks)


def _etcd_member(checks: list[Check], view: NodeView, condition: Condition, sight: Sight, site: Site) -> list[Check]:
    seen = f"{view.node.name}: {condition.message} (for {ago(condition.since, sight.now)})"
    at = next((i for i, one in enumerate(checks) if one.bad and one.part == "etcd"), None)
    if at is not None:
        return [*checks[:at], checks[at].seen(seen), *checks[at + 1 :]]
    return [*checks, _condition([(view, condition)], site, sight.now)]


def _parts_down(sight: Sight) -> dict[tuple[str, str], tuple[str, str]]:
    """(node, part) → its container's state, and who saw it."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for view in sight.nodes:
        for condition in _of_type(view, words.PART_DOWN):
            for text in condition.message.partition(": ")[2].split(", "):
                name, _, state = text.partition(" is ")
                part = name.removeprefix("lain-")
                if state:
                    told = f"{view.node.name}: {text} (for {ago(condition.since, sight.now)})"
                    found[view.node.name, part] = (state.partition(" ")[0], told)
    if sight.local is not None:
        for part, state in sight.local.parts.items():
            key = (sight.local.node, part)
            if state == "running":
                found.pop(key, None)  # what a node said half a minute ago is over
            else:
                found[key] = (state, f"docker: lain-{part} is {state}")
    return found

"""What is wrong with the platform, out of what was seen of it. Pure.

A cause is told once: what only follows from it (no leader while etcd is away, nobody's presence while nobody can renew it) is skipped, and
says for what. The order is that in which one thing carries the next.
"""

from __future__ import annotations

from lain_cli.doctor import apps, nodes
from lain_cli.doctor.etcd import check_etcd, check_records, etcdctl
from lain_cli.doctor.here import claims_of
from lain_cli.doctor.report import PROBLEM, WARNING, Check, Site, ok, skipped, steps
from lain_cli.doctor.sight import Sight
from lain_cli.render import duration, when
from lain_shared.contact import Contact, Reached, apart
from lain_shared.errors import Denied, LainError, Unauthenticated

MOST_SKEW_SECONDS = 30.0
"""As much as tokens forgive."""
SOON_SECONDS = 30 * 86400
TOKEN_SOON_SECONDS = 7 * 86400
RENEW_HOST = "docker compose -p lain run --rm files"


def judge(sight: Sight) -> tuple[Check, ...]:
    """Every check of the cluster. Parts that are down are told where their loss shows, with what is known of them as evidence."""
    site = Site() if sight.local is None else Site(sight.local.name, sight.local.node)
    if sight.local is not None and sight.local.node_state != "running":
        return (_node_container(sight),)
    etcd = check_etcd(sight, site)
    etcd_down = etcd.code in ("etcd_down", "etcd_no_leader", "etcd_nospace")
    routers = nodes.routers(sight, site, etcd_down)
    found: list[Check] = [
        _console(sight, site),
        _token(sight, site),
        etcd,
        _controller(sight, site),
        _leader(sight, site, etcd_down),
        *check_records(sight, site),
        *_switches(sight),
        *nodes.judge(sight, site, etcd_down),
        *_with_contact(routers, sight, site),
        *nodes.registry(sight, site),
        *_certificates(sight, site),
        _clock(sight),
        *apps.judge(sight),
    ]
    return nodes.with_parts(found, sight, site)


def _node_container(sight: Sight) -> Check:
    assert sight.local is not None  # noqa: S101 - asked by the caller
    local = sight.local
    next = {"paused": f"docker unpause lain-{local.name}-{local.node}"}.get(
        local.node_state, f"lain local start --name {local.name}"
    )
    return Check(
        "node", PROBLEM, f"the node of local cluster {local.name} does not run: it is {local.node_state}", "node_stopped",
        "everything of the cluster is in it", (f"docker says: lain-{local.name}-{local.node} is {local.node_state}",), next,
        command=next, part="node",
    )  # fmt: skip


# --- the two APIs -----------------------------------------------------------------------------------------------------


def unreached(name: str, part: str, contact: Contact, why: str, site: Site) -> Check:
    """A part that does not answer: how far one came says what it is."""
    words = {
        Reached.REFUSED: ("down", f"{name} does not run: nothing listens at {contact.address}"),
        Reached.UNREACHABLE: ("unreachable", f"{contact.address} ({name}) cannot be reached from here"),
        Reached.SILENT: ("silent", f"{name} at {contact.address} takes connections and does not answer: it hangs"),
        Reached.CERTIFICATE: ("certificate", f"the certificate of {name} at {contact.address} is not accepted"),
        Reached.GARBLED: ("garbled", f"what answers at {contact.address} is not {name}"),
    }
    suffix, found = words[contact.reached]
    node = site.node
    commands = {
        Reached.REFUSED: f"docker start lain-{part}",
        Reached.SILENT: f"docker restart lain-{part}",
        Reached.CERTIFICATE: f"docker restart lain-{part}",
    }
    command = commands.get(contact.reached, "")
    before = ""
    if contact.reached is Reached.CERTIFICATE:
        before = "is the phase's CA the cluster's (lain config show)? If it is, renew: " + (
            "lain local up" if site.local else f"on its node: {RENEW_HOST}"
        )
    if contact.reached in (Reached.UNREACHABLE, Reached.GARBLED):
        before = "is the address right? lain config show"
    look = f"docker logs --tail 50 lain-{part}" if contact.reached is Reached.REFUSED else ""
    return Check(
        name, PROBLEM, found, f"{part}_{suffix}", why, (contact.error,),
        steps(before, site.on(node, command), f"if it ends again: {site.on(node, look)}" if look else ""),
        command=command, node=node, part=part,
    )  # fmt: skip


def _console(sight: Sight, site: Site) -> Check:
    contact = sight.contacts.get("console")
    why = "nobody can look at apps or change them; what runs and what is routed goes on"
    if contact is None:
        return skipped("console", "the phase has no console address")
    if contact.reached is not Reached.ANSWERED:
        return unreached("the console", "console", contact, why, site)
    if isinstance(sight.cluster, LainError) and not isinstance(sight.cluster, Unauthenticated | Denied):
        if sight.cluster.error_code in ("etcd_away", "not_ready", "silent"):
            return ok("console", f"{sight.phase.console} answers; etcd is asked below")
        error = sight.cluster
        return Check(
            "the console", PROBLEM, error.message, "console_failing", error.why or why, next=error.next, part="console"
        )
    version = "" if sight.cluster is None or isinstance(sight.cluster, LainError) else sight.cluster.console_version
    return ok("console", f"{sight.phase.console} answers" + (f", version {version}" if version else ""))


def _token(sight: Sight, site: Site) -> Check:
    claims = claims_of(sight.phase.token)
    end = claims.get("exp")
    left = float(end) - sight.now if isinstance(end, int | float) else None
    name = str(claims.get("sub") or "?")
    renew = f"lainctl token create {name} --role {claims.get('role', 'operator')}"
    fresh = steps(
        "lain local up" if site.local else "on the node that was set up first: docker compose -p lain run --rm seed",
        "" if site.local else f"with /etc/lain/secrets/client/token: lain login -p {sight.phase.name} --token -",
    )
    if not sight.phase.token:
        why = "the cluster refuses whom it does not know"
        return Check(
            "token", PROBLEM, "this phase has no token", "token_missing", why, next=f"lain login -p {sight.phase.name}"
        )
    if left is not None and left <= 0:
        return Check(
            "token", PROBLEM, f"the token of {name} has expired {duration(-left)} ago", "token_expired",
            "every API refuses it: nothing of the cluster can be asked or changed with it",
            (f"it ended {when(float(end or 0))}",), f"ask an operator: {renew}; or, if you are the only one: {fresh}",
        )  # fmt: skip
    refused = next((one for one in (sight.who, sight.switches) if isinstance(one, Unauthenticated)), None)
    if refused is not None:
        return Check(
            "token", PROBLEM, f"the token of {name} is refused", "token_refused", refused.why, (refused.message,),
            f"ask an operator: {renew}; or, if you are the only one: {fresh}",
        )  # fmt: skip
    role = str(claims.get("role") or (getattr(sight.who, "role", "") if sight.who is not None else ""))
    told = f"{name}, {role}" + (f", {duration(left)} left" if left is not None else "")
    if left is not None and left < TOKEN_SOON_SECONDS:
        return Check(
            "token",
            WARNING,
            f"the token of {told}",
            "token_expiring",
            "the day it ends every API refuses it",
            next=renew,
        )
    if sight.who is None or isinstance(sight.who, LainError):
        return skipped("token", f"{told}; no API could be asked whether it is good")
    return ok("token", told)


def _controller(sight: Sight, site: Site) -> Check:
    contact = sight.contacts.get("deployd")
    if contact is None:
        return skipped("deployd", "the phase has no deployd address (operators have one)")
    why = "if no other replica leads, nothing is placed, replaced or rolled out; what runs and is routed goes on"
    if contact.reached is Reached.ANSWERED:
        if isinstance(sight.by_deployd, LainError) and not isinstance(sight.by_deployd, Unauthenticated | Denied):
            error = sight.by_deployd
            if error.error_code not in ("not_ready", "etcd_away"):
                return Check(
                    "deployd", PROBLEM, error.message, "deployd_failing", error.why, next=error.next, part="deployd"
                )
        return ok("deployd", f"{sight.phase.deployd} answers")
    found = unreached("the controller (deployd)", "deployd", contact, why, site)
    platform = sight.platform
    if platform is not None and not platform.leader.problem:
        leads = platform.leader.id
        found = found.seen(f"the console sees {leads} lead" if leads else "the console sees nobody lead")
    return found


def _leader(sight: Sight, site: Site, etcd_down: bool) -> Check:
    platform = sight.platform
    if etcd_down:
        return skipped("leader", "etcd takes no writes: nobody can be elected")
    if platform is None:
        return skipped("leader", "no API could be asked")
    leader = platform.leader
    contact = sight.contacts.get("deployd")
    why = "nothing is placed, replaced or rolled out until one leads; what runs and is routed goes on"
    node = site.node
    if leader.foreign:
        command = etcdctl("del /lain/leader/deployd")
        return Check(
            "leader", PROBLEM, f"the controller's leadership is held by {leader.id or 'something unreadable'}, which no replica is",
            "leader_foreign", why,
            ("/lain/leader/deployd stands without a lease: no living replica wrote it, and none of them replaces it",
             *([leader.problem] if leader.problem else [])),
            steps(site.on(node, command), "a replica takes the lead within seconds"), command=command, node=node,
        )  # fmt: skip
    if leader.problem:
        return skipped("leader", leader.problem)
    if leader.id:
        return ok("leader", f"{leader.id} leads since {when(leader.since)}")
    if contact is not None and contact.reached is not Reached.ANSWERED:
        return skipped("leader", "nobody leads: the controller does not answer")
    command = "docker restart lain-deployd"
    return Check(
        "leader", PROBLEM, "no controller leads", "no_leader", why,
        ("/lain/leader/deployd does not exist",),
        steps(site.on(node, "docker logs --tail 50 lain-deployd"), site.on(node, command)), command=command, node=node,
    )  # fmt: skip


# --- switches, router, certificates, clock ----------------------------------------------------------------------------

SWITCH_WORDS = {
    "readonly": (True, "the APIs refuse every change"),
    "maintenance": (True, "nothing is created, moved or stopped, and the APIs refuse every change"),
    "breaker": (True, "pods of lost nodes are not replaced"),
    "guard": (False, "pods of lost nodes are not replaced"),
}
"""Switch → the position that is out of the ordinary, and what it means."""


def _switches(sight: Sight) -> list[Check]:
    if sight.switches is None or isinstance(sight.switches, LainError):
        return [skipped("switches", "the controller could not be asked")]
    found: list[Check] = []
    for one in sight.switches:
        unusual, means = SWITCH_WORDS.get(one.name, (True, "somebody set it"))
        if one.on is not unusual:
            continue
        position, back = ("on", "off") if one.on else ("off", "on")
        who = f"{one.by} set it {when(one.at)}" if one.by else "nobody is known to have set it"
        found.append(
            Check(
                "switches", WARNING, f"the switch {one.name} is {position}", f"switch_{one.name}", means,
                (who + (f": {one.why}" if one.why else ""),), f"lainctl switch set {one.name} {back}",
                command=f"lainctl switch set {one.name} {back}",
            )
        )  # fmt: skip
    return found or [ok("switches", "all as usual")]


def _with_contact(routers: list[Check], sight: Sight, site: Site) -> list[Check]:
    """What routers say of themselves, and how the one at the phase's address answers."""
    contact = sight.contacts.get("router")
    if contact is None:
        return [*routers, skipped("router", "the phase has no router address")]
    if contact.reached is Reached.ANSWERED:
        return [*routers, ok("router", f"{contact.address} answers")]
    seen = f"from here: {contact.address}: {contact.error}"
    if any(one.part == "nginx" for one in routers):
        return [one.seen(seen) if one.part == "nginx" else one for one in routers]
    found = unreached("the router (nginx)", "nginx", contact, "nobody reaches an app by its host name there", site)
    return [*routers, found]


def _certificates(sight: Sight, site: Site) -> list[Check]:
    """Of what was talked to from here; those that nodes use they tell themselves."""
    shown = [one.certificate for one in sight.contacts.values() if one.certificate is not None]
    if not shown:
        return [skipped("certificates", "nobody showed one")]
    soon = [one for one in shown if one.not_after - sight.now < SOON_SECONDS]
    if not soon:
        first = min(shown, key=lambda one: one.not_after)
        return [ok("certificates", f"the first to end is {first.of}, in {duration(first.not_after - sight.now)}")]
    parts = sorted({one.of.removeprefix("the certificate of ").partition(" ")[0] for one in soon})
    command = "docker restart " + " ".join(f"lain-{part}" for part in parts)
    node = site.node
    return [
        Check(
            "certificates", WARNING, "certificates end soon", "certificate_expiring_here",
            "on that day every caller refuses the part they belong to",
            tuple(f"{one.of} ends {when(one.not_after)}" for one in soon),
            "lain local up" if site.local else steps(f"on its node: {RENEW_HOST}", f"on its node: {command}"), node=node,
        )
    ]  # fmt: skip


def _clock(sight: Sight) -> Check:
    """This machine's clock beside those of whoever answered; those of the nodes they tell themselves."""
    readings = [one.reading for name, one in sight.contacts.items() if one.reading is not None and name != "router"]
    if not readings:
        return skipped("clock", "nobody told the time")
    low, high, votes = apart(readings)
    if 2 * votes <= len(readings):
        return skipped("clock", "those who told the time do not agree")
    off = low if low > 0 else high if high < 0 else 0.0
    if abs(off) < MOST_SKEW_SECONDS:
        return ok("clock", f"within {max(abs(off), 1):.0f} s of the cluster's")
    way = "ahead of" if off > 0 else "behind"
    return Check(
        "clock", PROBLEM, f"this machine's clock is {duration(abs(off))} {way} the cluster's", "clock_skewed_here",
        "tokens look expired, or not valid yet, to one of the two",
        tuple(f"{one.of} said {when(one.told)} when it was {when(one.received)} here" for one in readings),
        "timedatectl; synchronize this machine (chrony, systemd-timesyncd)",
    )  # fmt: skip

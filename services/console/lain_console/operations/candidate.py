"""The pure pieces a release is put together and judged from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lain_console.operations.desired import rolled_out
from lain_sdk.api_types import PlanView, Problem, Verdict
from lain_sdk.manifest import Manifest, normal_giturl
from lain_shared.errors import Invalid, Refused
from lain_shared.model.app import App, OperationKind, Release
from lain_shared.model.config import ClusterConfig
from lain_shared.model.pod import Desired, ProcType
from lain_shared.store import Expectation

MAX_ENV_BYTES = 64 * 1024
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")


class PlanRefused(Refused):
    """A plan was judged and refused; the evidence has every reason."""

    code = "plan_refused"

    def __init__(self, plan: PlanView) -> None:
        first = plan.refusals[0]
        more = f" (and {len(plan.refusals) - 1} more)" if len(plan.refusals) > 1 else ""
        super().__init__(
            f"the {plan.kind.value} of {plan.app} is refused: {first.message}{more}",
            why=first.why,
            next=first.next,
            evidence={
                "refusals": [
                    {"code": each.code, "message": each.message, "why": each.why, "next": each.next, "proc": each.proc}
                    for each in plan.refusals
                ]
            },
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release that could be, and what speaks against it."""

    kind: OperationKind
    release: Release | None
    """None: it cannot even be put together."""
    refusals: tuple[Problem, ...] = ()
    expectations: tuple[Expectation, ...] = ()


def after_release(release: Release, app: App, before: Mapping[str, Desired]) -> dict[str, Desired]:
    """proc → what is wanted once the release has ended well; oneshots and what is only kept for a while left out."""
    names = {each.proc for each in release.procs}
    made = {each.proc: replace(each, kept_routes=()) for each in rolled_out(release, app, before) if each.proc in names}
    untouched = {
        each.proc: before[each.proc] for each in release.procs if each.release != release.number and each.proc in before
    }
    return {**untouched, **made}


def domains(config: ClusterConfig) -> tuple[str, ...]:
    """The cluster's domains, the main one first."""
    return (config.domain, *config.extra_domains)


def differs(before: Mapping[str, Desired], after: Mapping[str, Desired]) -> bool:
    lasting = {proc for proc, desired in before.items() if desired.type is not ProcType.ONESHOT}
    return lasting != after.keys() or any(
        replace(desired, release=before[proc].release) != before[proc] for proc, desired in after.items()
    )


def identity(app: App, manifest: Manifest) -> list[Problem]:
    found = []
    if manifest.appname != app.name:
        found.append(
            Problem(
                "wrong_appname",
                f"the manifest is of app {manifest.appname!r}, not of {app.name!r}",
                why="the images were pushed under another name",
                next="build and push it again from its own repository",
            )
        )
    giturl = normal_giturl(manifest.giturl)
    if app.giturl and giturl != normal_giturl(app.giturl):
        found.append(
            Problem(
                "wrong_giturl",
                f"{app.name} is bound to {app.giturl}, the manifest says {giturl or 'nothing'}",
                why="a name belongs to one repository from its first deploy on",
                next=f"set giturl: {app.giturl} in lain.yaml, or undeploy first to release the binding",
            )
        )
    return found


def missing_parts(manifest: Manifest, config: ClusterConfig) -> list[Problem]:
    available = ("networkd",) if config.network == "networkd" else ()
    return [
        Problem(
            f"needs_{need.part}",
            f"{need.path} needs {need.part}, which this cluster does not have",
            why=need.says,
            next=f"remove {need.path} from lain.yaml, or have an operator add {need.part}",
        )
        for need in manifest.needs(available)
    ]


def only(proc: str, fresh: Iterable[Desired], parent: Sequence[Desired]) -> tuple[Desired, ...]:
    """The parent's procs with one of them (or one more) from a new version."""
    chosen = next(each for each in fresh if each.proc == proc)
    kept = [each for each in parent if each.proc != proc]
    return (*kept, chosen)


def same_origins(old: Release) -> dict[str, int]:
    """The origins of the procs in another release with the manifest of ``old``: what that made is made by the new one too."""
    return {each.proc: origin for each in old.procs if (origin := old.origin_of(each)) != old.number}


def overridden(release: Release, app: App) -> list[Problem]:
    """``scale`` wins over the manifest: say so, or its edits seem to be ignored."""
    found = []
    for desired in release.procs:
        for name, value in sorted((app.overrides.get(desired.proc) or {}).items()):
            manifest = {
                "instances": desired.instances,
                "cpu": desired.template.cpu,
                "memory_bytes": desired.template.memory_bytes,
            }[name]
            if manifest != value:
                found.append(
                    Problem(
                        "overridden",
                        f"{desired.proc}: {name} stays {value}, the manifest says {manifest}",
                        why="it was set by lain scale, which wins over the manifest",
                        next=f"lain scale {app.name} {desired.proc} --reset",
                        proc=desired.proc,
                    )
                )
    return found


def half_pushed(app: str, version: str) -> Problem:
    return Problem(
        "image_missing",
        f"version {version} of {app} has a manifest but no release image",
        why=f"the tag release-{version} is not there: the push was cut short",
        next="push it again: lain push",
    )


def refused_deploy(app: str, problem: Problem) -> PlanView:
    return PlanView(app, OperationKind.DEPLOY, Verdict.REFUSED, refusals=(problem,))


def refused(app: str, candidate: Candidate) -> PlanView:
    return PlanView(app, candidate.kind, Verdict.REFUSED, refusals=candidate.refusals)


def judge_env(values: Mapping[str, str]) -> None:
    faults = [
        {"path": f"set.{name}", "message": "not a name for an environment variable"}
        for name in values
        if not ENV_NAME.match(name)
    ]
    faults += [
        {"path": f"set.{name}", "message": "LAIN_ names are set by the platform"}
        for name in values
        if name.startswith("LAIN_")
    ]
    if sum(len(name) + len(value.encode()) for name, value in values.items()) > MAX_ENV_BYTES:
        faults.append({"path": "set", "message": f"more than {MAX_ENV_BYTES} bytes"})
    if any("\0" in value for value in values.values()):
        faults.append({"path": "set", "message": "a value has a null byte"})
    if faults:
        raise Invalid(
            "the environment is wrong: " + "; ".join(f"{each['path']}: {each['message']}" for each in faults),
            evidence={"faults": faults},
            code="invalid_env",
        )


def changed_env(env: Mapping[str, str], values: Mapping[str, str], unset: Sequence[str]) -> dict[str, str]:
    return {**{name: value for name, value in env.items() if name not in unset}, **values}

"""``init``, ``validate``, ``meta``: the manifest and the version, without any cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lain_cli import failures, git
from lain_cli.context import MANIFEST, Run
from lain_cli.options import command
from lain_cli.render import Screen, count
from lain_shared.errors import Invalid


@command("validate", phase=False, examples=("lain validate", "lain validate apps/*/lain.yaml -o json"))
@click.argument("files", nargs=-1, metavar="[FILE…]", type=click.Path(path_type=Path))
def validate(run: Run, files: tuple[Path, ...]) -> int:
    """Check manifests (default: lain.yaml here); every fault at once, with its line.

    Needs no cluster. Exit code 1 when one is not valid.
    """
    from lain_sdk.manifest import ManifestInvalid, load  # noqa: PLC0415

    results: list[dict[str, Any]] = []
    for file in files or (Path(MANIFEST),):
        name = str(file)
        try:
            content = run.manifest_bytes() if not files else _read(run, file)
            manifest = load(content, file=name)
        except ManifestInvalid as error:
            results.append({"file": name, "valid": False, "faults": [fault.to_document() for fault in error.faults]})
            if run.output == "pretty":
                _tell_faults(error.faults)
        else:
            procs = [{"name": proc.name, "type": str(proc.type)} for proc in manifest.procs.values()]
            results.append({"file": name, "valid": True, "faults": [], "appname": manifest.appname, "procs": procs})

    def pretty(screen: Screen) -> None:
        for result in results:
            if result["valid"]:
                procs = ", ".join(f"{proc['name']} ({proc['type']})" for proc in result["procs"])
                screen.line(f"{result['file']}: valid: app {result['appname']}, procs {procs}", "good")
            else:
                screen.line(f"{result['file']}: {count(len(result['faults']), 'fault')}", "bad")

    run.show({"valid": all(result["valid"] for result in results), "files": results}, pretty)
    return failures.Exit.DONE if all(result["valid"] for result in results) else failures.Exit.FAILED


def _read(run: Run, file: Path) -> bytes:
    where = run.directory / file
    if where.is_dir():
        where = where / MANIFEST
    try:
        return where.read_bytes()
    except OSError as error:
        raise Invalid(f"{file} cannot be read", why=error.strerror or str(error), code="manifest_unreadable") from error


def _tell_faults(faults: Any) -> None:
    for fault in faults:
        print(fault, file=sys.stderr)


@command("meta", phase=False, examples=("lain meta",))
def meta(run: Run) -> None:
    """Print the version this commit gets: <commit time>-<commit>."""
    run.manifest_bytes()
    tree = git.inspect(run.directory)
    version = git.require_version(tree)
    run.show({"meta_version": version, "dirty": tree.dirty}, lambda screen: screen.line(version))


@command("init", phase=False, examples=("lain init", "lain init --name hello --force"))
@click.option("--name", metavar="APP", help="The app's name (default: the directory's).")
@click.option("--force", is_flag=True, help="Overwrite the lain.yaml that is here.")
@click.option("--stdout", "to_stdout", is_flag=True, help="Print it instead of writing it.")
def init(run: Run, name: str | None, force: bool, to_stdout: bool) -> None:
    """Write a first lain.yaml by looking at the repository.

    Looks at Dockerfile, Procfile, requirements.txt, pyproject.toml, package.json and go.mod.
    """
    from lain_cli.scaffold import look, propose  # noqa: PLC0415

    if run.manifest_file.exists() and not force and not to_stdout:
        raise Invalid(
            f"{run.manifest_file} is already there", next="lain validate, or: lain init --force", code="exists"
        )
    proposal = propose(look(run.directory), name or run.directory.resolve().name)
    if to_stdout:
        sys.stdout.write(proposal.text)
        return
    run.manifest_file.write_text(proposal.text, encoding="utf-8")
    document = {"file": str(run.manifest_file), "appname": proposal.appname, "because": list(proposal.because)}

    def pretty(screen: Screen) -> None:
        screen.line(f"wrote {run.manifest_file}: app {proposal.appname}", "good")
        for reason in proposal.because:
            screen.line(f"  {reason}")
        screen.line("next: read it, then git add, git commit, lain ship --register")

    run.show(document, pretty)

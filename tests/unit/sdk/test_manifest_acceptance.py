"""The acceptance list of ``lain.yaml``, line by line: the number in a test's name is the line's number.

Where the design gives another value than the line, the test has the design's and ``docs/acceptance.md`` names both.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lain_sdk.manifest import (
    CopyItem,
    Manifest,
    ManifestInvalid,
    Port,
    app_domain,
    backups,
    default_hosts,
    load,
    newest_deployable,
    render_resource,
    resource_parameters,
    version_of_tag,
    versions,
)
from lain_shared.model.pod import ProcType

DOMAINS = ("lain.local", "x.org")
MIB = 1024 * 1024
TINYCACHE = """
appname: tinycache
apptype: resource
build: {base: redis:7, script: []}
service.cache:
  cmd: "redis-server --maxmemory {{ size | default('64M') }}"
  port: 6379
  memory: "{{ size | default('64M') }}"
  portal: {cmd: /relay 6379, port: 6379}
"""


def hello(
    *sections: str, appname: str = "hello", build: str = "{base: 'python:3.12'}", instance: bool = False
) -> Manifest:
    return load("\n".join([f"appname: {appname}", f"build: {build}", *sections]), instance=instance)


def refused(*sections: str, appname: str = "hello", build: str = "{base: 'python:3.12'}") -> list[tuple[str, str]]:
    """(code, path) of each fault."""
    with pytest.raises(ManifestInvalid) as caught:
        hello(*sections, appname=appname, build=build)
    return [(fault.code, fault.path) for fault in caught.value.faults]


def hosts(manifest: Manifest, proc: str) -> list[str]:
    return [str(route) for route in manifest.mountpoints(proc, DOMAINS)]


def test_1_appname_is_needed() -> None:
    with pytest.raises(ManifestInvalid) as caught:
        load("build: {base: x}")
    (fault,) = caught.value.faults
    assert (fault.code, fault.path) == ("missing_key", "appname")


@pytest.mark.parametrize("name", ["service", "1a", "a--b", "a_b", "a-", "A-b", "a.b", "resource", "portal", "x" * 64])
def test_2_bad_appnames(name: str) -> None:
    assert refused(appname=name) == [("bad_value", "appname")]


@pytest.mark.parametrize("name", ["hello-world", "a1-b2", "x" * 63])
def test_2_good_appnames(name: str) -> None:
    assert hello(appname=name).appname == name


@pytest.mark.parametrize(("text", "path"), [("appname: a", "build"), ("appname: a\nbuild: {script: []}", "build.base")])
def test_3_build_and_base_are_needed(text: str, path: str) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        load(text)
    assert [(fault.code, fault.path) for fault in caught.value.faults] == [("missing_key", path)]


def test_4_the_smallest_web() -> None:
    proc = hello("web: {cmd: hello}").procs["web"]
    assert (proc.name, proc.type, proc.ports, proc.memory_bytes, proc.cpu, proc.num_instances) == (
        "web", ProcType.WEB, (Port(80),), 32 * MIB, 0, 1,
    )  # fmt: skip
    assert proc.cmd == ("hello",)
    assert [volume.path for volume in proc.volumes] == ["/lain/logs"]
    assert proc.filters == ("constraint:group==default",)


def test_5_an_empty_command_is_the_images_own() -> None:
    assert hello("web: {cmd: }").procs["web"].cmd is None


def test_6_commands_are_split_as_a_shell_does() -> None:
    assert hello("""web: {cmd: 'nginx -g "daemon off;"'}""").procs["web"].cmd == ("nginx", "-g", "daemon off;")


@pytest.mark.parametrize(
    "port", ["80:tcp", "{80: ['type:tcp']}", "80", "'80'", "[80]", "['80:tcp']", "[{80: ['type:tcp']}]"]
)
def test_7_forms_of_a_port(port: str) -> None:
    assert hello(f"web: {{port: {port}}}").procs["web"].ports == (Port(80, "tcp"),)


@pytest.mark.parametrize(
    "port", ["80:tcp:foo", "80:sctp", "0", "65536", "{80: ['type:foo']}", "{80: [tcp]}", "a", "1.5", "[80, 80]", "080"]
)
def test_7_bad_ports(port: str) -> None:
    faults = refused(f"web: {{port: {port}}}")
    assert len(faults) == 1 and faults[0][1].startswith("web.port")


def test_8_two_procs_of_one_name() -> None:
    assert refused("web: {}", "proc.web: {type: web}") == [("conflict", "proc.web")]


def test_9_a_proc_is_a_worker() -> None:
    proc = hello("proc.mailer: {cmd: m, port: 80, memory: 128m}").procs["mailer"]
    assert (proc.type, proc.port, proc.memory_bytes, proc.mountpoint) == (ProcType.WORKER, 80, 128 * MIB, ())


def test_10_default_hosts() -> None:
    assert hosts(hello("web: {}"), "web") == ["hello.lain.local", "hello.x.org", "hello.lain"]


def test_11_mountpoints_of_web() -> None:
    found = hosts(hello("web: {mountpoint: [/web, a.foo, c.com/y/z]}"), "web")
    assert sorted(found) == sorted(
        [
            "hello.lain.local",
            "hello.x.org",
            "hello.lain",
            "hello.lain.local/web",
            "hello.x.org/web",
            "hello.lain/web",
            "a.foo",
            "c.com/y/z",
        ]
    )


def test_12_mountpoints_of_another_web_proc() -> None:
    found = hosts(hello("web.admin: {mountpoint: [/admin]}"), "admin")
    assert found == ["hello.lain.local/admin", "hello.x.org/admin", "hello.lain/admin"]


@pytest.mark.parametrize("mountpoint", ["", "{mountpoint: }", "{mountpoint: []}"])
def test_13_another_web_proc_needs_a_mountpoint(mountpoint: str) -> None:
    assert refused(f"web.foo: {mountpoint}") == [("missing_key", "web.foo.mountpoint")]


def test_14_a_resource_instance() -> None:
    manifest = hello("web: {}", appname="resource.demo.hello", instance=True)
    assert hosts(manifest, "web") == [
        "hello.demo.resource.lain.local",
        "hello.demo.resource.x.org",
        "hello.demo.resource.lain",
    ]
    assert app_domain("resource.redis.hello") == "hello.redis.resource"
    assert manifest.apptype == "resource-instance"


def test_15_volumes() -> None:
    proc = hello("worker: {volumes: [data, /var/lib/x]}").procs["worker"]
    assert [volume.path for volume in proc.volumes] == ["/lain/app/data", "/var/lib/x", "/lain/logs"]


@pytest.mark.parametrize("path", [".", "..", "/", "/lain/app/", "../..", "/lain/", "//", "../../..", "/proc/x", "''"])
def test_16_bad_volumes(path: str) -> None:
    assert refused(f"worker: {{volumes: [{path}]}}") == [("bad_value", "worker.volumes[0]")]


def test_17_null_is_empty() -> None:
    proc = hello("worker: {env: , volumes: , logs: , labels: , secret_files: , ports: }").procs["worker"]
    assert (dict(proc.env), [volume.path for volume in proc.volumes], proc.logs) == ({}, ["/lain/logs"], ())


def test_18_logs_once_each() -> None:
    assert hello("worker: {logs: [a.log, b.log, a.log]}").procs["worker"].logs == ("a.log", "b.log")


@pytest.mark.parametrize("name", ["/a.log", "../x", "a/../../x"])
def test_19_logs_are_relative(name: str) -> None:
    assert refused(f"worker: {{logs: [{name}]}}") == [("bad_value", "worker.logs[0]")]


def test_20_backups() -> None:
    manifest = hello("""
worker.db:
  volumes:
    - data:
        backup_full: {schedule: "* 1 * * *", expire: 30d}
        backup_increment: {schedule: "0 1 * * *", expire: 3d, pre_run: freeze}
    - /more:
        backup_full: {schedule: "0 3 * * *", expire: 1h}
    - /bare:
    - /none: {backup_full: {schedule: ""}}
""")
    found = backups(manifest)
    assert [(one.procname, one.volume, one.mode) for one in found] == [
        ("hello.worker.db", "data", "full"), ("hello.worker.db", "data", "increment"), ("hello.worker.db", "/more", "full"),
    ]  # fmt: skip
    assert found[0].policy.expire_seconds == 30 * 86400 and found[1].policy.pre_run == "freeze"


@pytest.mark.parametrize(
    "policy",
    [
        "backup: {schedule: '* * * * *', expire: 1d}",
        "backup_full: {schedule: '* * * *', expire: 1d}",
        "backup_full: {schedule: '61 * * * *', expire: 1d}",
        "backup_full: {schedule: '* * * * *', expire: 30x}",
        "backup_full: {schedule: '* * * * *'}",
        "backup_full: {schedul: '* * * * *', expire: 1d}",
    ],
)
def test_20_bad_backups(policy: str) -> None:
    faults = refused(f"worker: {{volumes: [{{data: {{{policy}}}}}]}}")
    assert len(faults) >= 1 and all(path.startswith("worker.volumes[0].data") for _, path in faults)


def test_21_secret_files() -> None:
    proc = hello("worker: {secret_files: [a/b.tex, /hello, conf/../k, ' /blank ', x/]}").procs["worker"]
    assert proc.secret_files == ("/lain/app/a/b.tex", "/hello", "/lain/app/k", "/blank", "/lain/app/x")
    assert refused("worker: {secret_files: [../..]}") == [("bad_value", "worker.secret_files[0]")]


@pytest.mark.parametrize(
    ("key", "good", "bad"), [("setup_time", (0, 300), (-1, 301, 2342)), ("kill_timeout", (1, 300), (0, 301))]
)
def test_22_ranges_of_times(key: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    for value in good:
        assert getattr(hello(f"web: {{{key}: {value}}}").procs["web"], key) == value
    for value in bad:
        assert refused(f"web: {{{key}: {value}}}") == [("bad_value", f"web.{key}")]


@pytest.mark.parametrize(
    ("written", "size"), [("128M", 128 * MIB), ("2G", 2048 * MIB), ("10g", 10240 * MIB), ("6m", 6 * MIB)]
)
def test_23_good_sizes(written: str, size: int) -> None:
    assert hello(f"web: {{memory: {written}}}").procs["web"].memory_bytes == size


@pytest.mark.parametrize("written", ["128", "128a", "M", "0m", "5m", "-1m", "1.5g", "128 m", "128mb", "9999999999999g"])
def test_23_bad_sizes(written: str) -> None:
    assert refused(f"web: {{memory: {written}}}") == [("bad_value", "web.memory")]


@pytest.mark.parametrize(
    "ports", ['{"9506:8000/udp": , 9504: }', '["9506:8000/udp", 9504]', '["9506:8000/udp", {9504: }]']
)
def test_24_cluster_ports(ports: str) -> None:
    found = hello(f"worker: {{ports: {ports}}}").procs["worker"].stream_ports
    assert [(port.source, port.target, port.proto) for port in found] == [(9506, 8000, "udp"), (9504, 9504, "tcp")]


def test_24_both_protocols_of_one_port_and_options_carried_along() -> None:
    ports = hello("worker: {ports: {9500/tcp: {hash: source}, 9500/udp: }}").procs["worker"].stream_ports
    assert [(port.source, port.proto, dict(port.options)) for port in ports] == [
        (9500, "tcp", {"hash": "source"}),
        (9500, "udp", {}),
    ]
    assert hello("worker: {ports: '9500:22'}").procs["worker"].stream_ports[0].target == 22
    assert hello("worker:\n  ports:\n    9506:22:\n").procs["worker"].stream_ports[0].target == 22


@pytest.mark.parametrize("port", ["9499", "10001", "'9500:70000'", "'9500:x'", "'9500/sctp'", "'9500:0'", "9500.5"])
def test_25_bad_cluster_ports(port: str) -> None:
    faults = refused(f"worker: {{ports: {{{port}: }}}}")
    assert len(faults) == 1 and faults[0][1].startswith("worker.ports")


@pytest.mark.parametrize("port", [9500, 10000])
def test_25_good_cluster_ports(port: int) -> None:
    assert hello(f"worker: {{ports: {{{port}: }}}}").procs["worker"].stream_ports[0].source == port


@pytest.mark.parametrize(
    ("filters", "expected"),
    [("[constraint:group==ssd]", ["constraint:group==ssd"]),
     ("['affinity:app!=~router']", ["affinity:app!=~router", "constraint:group==default"]),
     ("[]", []), ("", ["constraint:group==default"]), ("constraint:node!=n1", ["constraint:node!=n1", "constraint:group==default"])],
)  # fmt: skip
def test_26_filters(filters: str, expected: list[str]) -> None:
    assert list(hello(f"web: {{filters: {filters}}}").procs["web"].filters) == expected


@pytest.mark.parametrize(
    "written",
    [
        "group==ssd",
        "constraint:group=ssd",
        "constraint:==ssd",
        "constraint:group==",
        "affinity:a==~",
        "constraint:a==/(x+)+/",
        "constraint:a==/x",
    ],
)
def test_26_bad_filters(written: str) -> None:
    assert refused(f"web: {{filters: ['{written}']}}") == [("bad_value", "web.filters[0]")]


@pytest.mark.parametrize("labels", ["['proctype:router']", "proctype:router", "{proctype: router}"])
def test_27_labels(labels: str) -> None:
    assert dict(hello(f"web: {{labels: {labels}}}").procs["web"].labels) == {"proctype": "router"}


def test_27_labels_split_at_the_first_colon() -> None:
    assert dict(hello("web: {labels: ['url:http://x']}").procs["web"].labels) == {"url": "http://x"}
    assert refused("web: {labels: [oops]}") == [("bad_value", "web.labels[0]")]


def test_28_cloud_volumes() -> None:
    first = hello("worker: {cloud_volumes: {dirs: [/d]}}").procs["worker"].cloud_volumes
    second = hello("worker: {cloud_volumes: {type: single, dirs: [/d]}}").procs["worker"].cloud_volumes
    assert first is not None and (first.kind, first.dirs) == ("multi", ("/d",))
    assert second is not None and (second.kind, second.dirs) == ("single", ("/d",))
    assert refused("worker: {cloud_volumes: {type: many, dirs: [/d]}}") == [("bad_value", "worker.cloud_volumes.type")]


def test_29_a_service_is_a_proc_and_a_portal() -> None:
    manifest = hello("service.echo: {cmd: e, portal: {cmd: p}}")
    assert {name: proc.type.value for name, proc in manifest.procs.items()} == {
        "echo": "worker",
        "portal-echo": "portal",
    }
    portal = manifest.procs["portal-echo"]
    assert (portal.service_name, portal.allow_clients) == ("echo", "**")
    assert manifest.apptype == "service"


def test_30_portals_need_their_keys() -> None:
    assert refused("service.echo: {cmd: e}") == [("missing_key", "service.echo.portal")]
    assert refused("portal.p: {cmd: e}") == [("missing_key", "portal.p.service_name")]


def test_31_a_portals_port_is_the_services() -> None:
    manifest = hello("service.echo: {port: 1234, portal: {cmd: p}}")
    assert manifest.procs["portal-echo"].port == 1234


def test_32_resources_used() -> None:
    uses = hello("use_resources: {echo: {memory: 128M, cpu: 2, services: [e1]}, bark: {services: [b1]}}").use_resources
    assert {app: (use.services, dict(use.parameters)) for app, use in uses.items()} == {
        "echo": (("e1",), {"memory": "128M", "cpu": "2"}), "bark": (("b1",), {}),
    }  # fmt: skip


def test_33_a_resource_rendered() -> None:
    instance = render_resource(load(TINYCACHE), {"size": "256M"}, "hello", meta_version="1500000000-abc")
    cache = instance.procs["cache"]
    assert instance.appname == "resource.tinycache.hello" and instance.apptype == "resource-instance"
    assert cache.memory_bytes == 256 * MIB
    assert cache.cmd == ("redis-server", "--maxmemory", "256M")
    assert cache.image == "tinycache:release-1500000000-abc"


def test_34_a_resource_rendered_with_its_defaults() -> None:
    assert render_resource(load(TINYCACHE), {}, "hello").procs["cache"].memory_bytes == 64 * MIB


def test_34a_a_resource_is_valid_as_written() -> None:
    manifest = load(TINYCACHE)
    assert manifest.apptype == "resource" and resource_parameters(manifest) == ("size",)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ x | attr('y') }}",
        "{% for i in range(9) %}{{ i }}{% endfor %}",
        "{{ range(9) }}",
        "{{ 'a' * 999999999 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ self._TemplateReference__context }}",
        "{% set a = 1 %}",
        "{% include 'x' %}",
        "{{ x | format('y') }}",
        "{{ " + "not " * 500 + "1 }}",
        "{% if 1 %}" * 150 + "{% endif %}" * 150,
        "{{ 1 // 0 }}",
        "{{ 'a' + 1 }}",
        "{{",
    ],
)
def test_35_the_sandbox_refuses(template: str) -> None:
    text = TINYCACHE + f"worker:\n  env:\n    - '{'X=' + template.replace(chr(39), chr(39) * 2)}'\n"
    with pytest.raises(ManifestInvalid) as caught:
        load(text)
    assert [(fault.code, fault.path, fault.line) for fault in caught.value.faults] == [
        ("template", "worker.env[0]", 12)
    ]


def test_36_prepare_as_a_list() -> None:
    build = hello(build="{base: x, prepare: [one, two]}").build
    assert build is not None and build.prepare is not None
    assert (build.prepare.version, build.prepare.keep, build.prepare.script) == (None, (), ("one", "two"))
    assert build.prepare.commands == ("one", "two", build.prepare.clean_command)


def test_37_prepare_keeps_exactly_what_it_says(tmp_path: Path) -> None:
    build = hello(build="{base: x, prepare: {version: 0, keep: [node_modules, bundle, 'a b', '-x', '*']}}").build
    assert build is not None and build.prepare is not None and build.prepare.version == "0"
    kept, gone = ("node_modules", "bundle", "a b", "-x", "*"), ("src", ".git", "node_modules2", "..x", "an odd 'name'")
    for name in (*kept, *gone):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    subprocess.run(["/bin/sh", "-c", build.prepare.clean_command], cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert all((tmp_path / name / "file").exists() for name in kept)


def test_36_prepare_keeps_nothing_unless_told(tmp_path: Path) -> None:
    build = hello(build="{base: x, prepare: [one]}").build
    assert build is not None and build.prepare is not None
    (tmp_path / "src").mkdir()
    for _ in range(2):  # also in an empty directory
        subprocess.run(["/bin/sh", "-c", build.prepare.clean_command], cwd=tmp_path, check=True)
        assert list(tmp_path.iterdir()) == []


def test_38_bad_prepare_version() -> None:
    assert refused(build='{base: x, prepare: {version: "a b"}}') == [("bad_value", "build.prepare.version")]


def test_39_release_copy() -> None:
    release = hello("release: {copy: [hi, {src: hello, dest: /usr/bin/hello}]}").release
    assert release is not None and release.copy == (CopyItem("hi", "hi"), CopyItem("hello", "/usr/bin/hello"))


def test_40_build_volumes() -> None:
    assert refused(build="{base: x, volumes: [cache]}") == [("bad_value", "build.volumes[0]")]
    assert refused("release: {script: [x]}", build="{base: x, volumes: [/c]}") == [("conflict", "release.script")]


def test_41_versions_of_tags() -> None:
    tags = ("meta-123-abc", "release-123-abc", "meta-", "fake-1--a", "")
    assert [version_of_tag(tag) for tag in tags] == ["123-abc", None, None, None, None]


def test_42_versions_sorted_and_the_newest_deployable() -> None:
    tags = ["meta-5-a", "meta-9-b", "release-5-a", "prepare-1-2", "latest"]
    assert [version.name for version in versions(tags)] == ["9-b", "5-a"]
    assert newest_deployable(tags) == "5-a"


def test_43_nothing_leaks_from_one_manifest_to_the_next() -> None:
    assert hello("release: {script: [x]}").release is not None
    assert hello(build="{base: x, volumes: [/c]}").release is None


def test_44_reading_touches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build half of this line is tested with the CLI; here: a manifest is text, nothing is looked up or written."""
    (tmp_path / "Dockerfile").write_text("FROM mine\n")
    monkeypatch.chdir(tmp_path)
    hello("web: {}", build="{dockerfile: Dockerfile}")
    assert [path.name for path in tmp_path.iterdir()] == ["Dockerfile"]
    assert (tmp_path / "Dockerfile").read_text() == "FROM mine\n"


def test_default_hosts_name_each_domain_once() -> None:
    assert default_hosts("hello", ("lain", "x.org")) == ("hello.lain", "hello.x.org")

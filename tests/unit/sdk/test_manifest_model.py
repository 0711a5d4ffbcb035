"""What LAIN adds to ``lain.yaml``: probes, rollout, Dockerfiles, ready-made images, the router's options; and the way to ``Desired``."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lain_sdk.manifest import (
    Build,
    InvalidName,
    Manifest,
    ManifestInvalid,
    dump,
    load,
    normal_giturl,
    parse_image,
    parse_version,
    render_resource,
    require_version,
    validate_appname,
)
from lain_sdk.manifest.needs import PARTS
from lain_sdk.manifest.reference import main, reference
from lain_shared.errors import Invalid
from lain_shared.model.pod import Desired, Probe, ProbeKind, ProcType, Strategy, Volume
from lain_shared.model.route import ProxyOptions, Route

GOOD = "appname: hello\nbuild: {base: x}\n"
DOMAINS = ("lain.localhost", "x.org")
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "lain-yaml.md"


def paths_of(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ManifestInvalid) as caught:
        load(text)
    return [(fault.code, fault.path) for fault in caught.value.faults]


def desired_of(manifest: Manifest, env: dict[str, str] | None = None) -> dict[str, Desired]:
    images = dict.fromkeys(manifest.procs, f"hello@sha256:{'0' * 64}")
    found = manifest.desired(domains=DOMAINS, images=images, release=7, env=env or {}, meta_version="1500000000-abc")
    return {one.proc: one for one in found}


def test_probes() -> None:
    proc = load(
        GOOD
        + """
web:
  port: 8000
  readiness: {http: /ready, interval_seconds: 5, timeout_seconds: 0.5, failures: 2, successes: 3}
  liveness: {http: {path: /live, port: 9000}}
  startup: {exec: 'test -e "/tmp/a b"', failures: 60}
worker: {readiness: {tcp: 7000}}
"""
    ).procs
    assert proc["web"].readiness == Probe(ProbeKind.HTTP, 8000, "/ready", (), 5.0, 0.5, 2, 3)
    assert proc["web"].liveness == Probe(ProbeKind.HTTP, 9000, "/live")
    assert proc["web"].startup == Probe(ProbeKind.EXEC, command=("test", "-e", "/tmp/a b"), failures=60)
    assert proc["worker"].readiness == Probe(ProbeKind.TCP, 7000)


@pytest.mark.parametrize(
    ("probe", "path"),
    [
        ("{}", ""),
        ("{http: /, tcp: 80}", ""),
        ("{http: ping}", ".http"),
        ("{http: {path: ping}}", ".http.path"),
        ("{http: {prot: 80}}", ".http.prot"),
        ("{tcp: 0}", ".tcp"),
        ("{exec: ''}", ".exec"),
        ("{exec: []}", ".exec"),
        ("{tcp: 80, interval_seconds: 0}", ".interval_seconds"),
        ("{tcp: 80, interval_seconds: .nan}", ".interval_seconds"),
        ("{tcp: 80, timeout_seconds: 1h}", ".timeout_seconds"),
        ("{tcp: 80, failures: 0}", ".failures"),
        ("/ping", ""),
        ("[]", ""),
    ],
)
def test_bad_probes(probe: str, path: str) -> None:
    assert [where for _, where in paths_of(GOOD + f"web: {{readiness: {probe}}}")] == [f"web.readiness{path}"]


def test_an_http_probe_needs_a_port() -> None:
    assert paths_of(GOOD + "worker: {readiness: {http: /}}") == [("conflict", "worker.readiness")]


def test_readiness_is_the_first_of_its_sources() -> None:
    def ready(keys: str, kind: str = "web") -> Probe | None:
        return desired_of(load(GOOD + f"{kind}: {{{keys}}}"))[kind].template.readiness

    check = "container_healthcheck: {cmd: curl -f localhost, options: {interval: 1, timeout: 2, retries: 5}}"
    assert ready(f"readiness: {{tcp: 9}}, healthcheck: /h, {check}") == Probe(ProbeKind.TCP, 9)
    assert ready(f"healthcheck: /h, {check}") == Probe(
        ProbeKind.EXEC,
        command=("/bin/sh", "-c", "curl -f localhost"),
        interval_seconds=1.0,
        timeout_seconds=2.0,
        failures=5,
    )
    assert ready("healthcheck: /h, port: 8000") == Probe(ProbeKind.HTTP, 8000, "/h")
    assert ready("port: 8000") == Probe(ProbeKind.TCP, 8000)
    assert ready("container_healthcheck: {cmd: none}") is None
    assert ready("", "worker") is None
    assert ready("port: '53:udp'", "worker") is None
    assert ready("port: 80", "oneshot") is None


def test_rollout_keys_and_their_defaults() -> None:
    proc = load(GOOD + "web: {}").procs["web"]
    assert (proc.strategy, proc.max_surge, proc.drain_seconds, proc.min_ready_seconds, proc.deploy_deadline_seconds) == (
        Strategy.START_FIRST, 1, 10, 0, 300,
    )  # fmt: skip
    assert load(GOOD + "web: {setup_time: 7}").procs["web"].min_ready_seconds == 7
    assert load(GOOD + "web: {setup_time: 7, min_ready_seconds: 0}").procs["web"].min_ready_seconds == 0
    full = load(
        GOOD
        + "web: {strategy: recreate, max_surge: 3, drain_seconds: 300, deploy_deadline_seconds: 60, read_only: true}"
    ).procs["web"]
    assert (full.strategy, full.max_surge, full.drain_seconds, full.deploy_deadline_seconds, full.read_only) == (
        Strategy.RECREATE, 3, 300, 60, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "strategy"),
    [
        ("volumes: [data]", Strategy.RECREATE),
        ("volumes: [/lain/logs]", Strategy.START_FIRST),
        ("stateful: true", Strategy.RECREATE),
        ("singleton: true", Strategy.RECREATE),
        ("volumes: [data], strategy: start_first", Strategy.START_FIRST),
        ("secret_files: [a]", Strategy.START_FIRST),
    ],
)
def test_the_strategy_follows_from_what_is_kept(keys: str, strategy: Strategy) -> None:
    assert load(GOOD + f"worker: {{{keys}}}").procs["worker"].strategy is strategy


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("singleton: true, num_instances: 2", "num_instances"),
        ("singleton: true, volumes: [data]", "volumes"),
        ("singleton: true, persistent_dirs: [data]", "persistent_dirs"),
        ("singleton: true, strategy: start_first", "strategy"),
        ("stateful: true, strategy: start_first", "strategy"),
        ("memory: 32m, memory_request: 64m", "memory_request"),
        ("memory_request: 64m", "memory_request"),
        ("drain_seconds: 301", "drain_seconds"),
        ("min_ready_seconds: 301", "min_ready_seconds"),
        ("deploy_deadline_seconds: 0", "deploy_deadline_seconds"),
        ("max_surge: 0", "max_surge"),
        ("strategy: rolling", "strategy"),
        ("num_instances: -1", "num_instances"),
        ("cpu: 9", "cpu"),
        ("memory: 5m", "memory"),
    ],
)
def test_contradictions_and_ranges(keys: str, path: str) -> None:
    assert [where for _, where in paths_of(GOOD + f"worker: {{{keys}}}")] == [f"worker.{path}"]


def test_a_web_proc_needs_a_tcp_port() -> None:
    assert paths_of(GOOD + "web: {port: '53:udp'}") == [("conflict", "web.port")]
    assert load(GOOD + "web: {port: ['53:udp', 8000]}").procs["web"].port == 8000


def test_a_dockerfile_app() -> None:
    build = load(
        "appname: a\nbuild: {dockerfile: deploy/Dockerfile, context: ./src/, target: run, args: {V: 1.10}}"
    ).build
    assert build == Build(dockerfile="deploy/Dockerfile", context="src", target="run", args={"V": "1.10"})
    assert build is not None and build.base == ""


@pytest.mark.parametrize(
    ("build", "path"),
    [
        ("{dockerfile: Dockerfile, base: x}", "build.base"),
        ("{dockerfile: Dockerfile, script: [x]}", "build.script"),
        ("{dockerfile: Dockerfile, prepare: [x]}", "build.prepare"),
        ("{dockerfile: ../Dockerfile}", "build.dockerfile"),
        ("{dockerfile: /Dockerfile}", "build.dockerfile"),
        ("{dockerfile: Dockerfile, context: ..}", "build.context"),
        ("{base: x, args: {A: b}}", "build.args"),
        ("{base: x, target: y}", "build.target"),
        ("{base: x, build_arg: [A]}", "build.build_arg[0]"),
        ("{base: x, prepare: {keep: [a/b]}}", "build.prepare.keep[0]"),
        ("{base: 'x y'}", "build.base"),
    ],
)
def test_bad_builds(build: str, path: str) -> None:
    assert [where for _, where in paths_of(f"appname: a\nbuild: {build}")] == [path]


def test_the_image_only_form() -> None:
    manifest = load("appname: a\nimage: 'docker.io/library/nginx:1.27'\nweb: {}")
    assert (manifest.image, manifest.build) == ("docker.io/library/nginx:1.27", None)
    assert manifest.images("1-a") == {"web": "a:release-1-a"}
    assert paths_of("appname: a\nimage: x\nrelease: {script: [y]}") == [("conflict", "release")]
    assert paths_of("appname: a\nimage: x\nbuild: {base: y}\ntest: {}") == [("conflict", "build"), ("conflict", "test")]
    assert paths_of("appname: a\nweb: {}") == [("missing_key", "build")]


def test_volumes_and_persistent_dirs_are_joined() -> None:
    policies = "{backup_full: {schedule: '0 3 * * *', expire: 1d}}"
    proc = load(GOOD + f"worker: {{persistent_dirs: [a, b], volumes: [c, /lain/app/a: {policies}]}}").procs["worker"]
    assert [volume.path for volume in proc.volumes] == ["/lain/app/a", "/lain/app/b", "/lain/app/c", "/lain/logs"]
    assert proc.volumes[0].backup_full is not None and proc.volumes[0].written == "a"
    twice = f"worker: {{persistent_dirs: [a: {policies}], volumes: [a: {policies}]}}"
    assert [code for code, _ in paths_of(GOOD + twice)] == ["conflict"]


def test_desired_says_everything_a_node_and_a_router_need() -> None:
    manifest = load(
        GOOD
        + """
web:
  cmd: serve
  entrypoint: []
  port: 8000
  env: {A: manifest, B: manifest, TZ: Asia/Shanghai}
  cpu: 2
  memory: 64m
  memory_request: 16m
  user: 1000
  workdir: /srv
  volumes: [data]
  cloud_volumes: {dirs: [/c]}
  labels: {tier: front}
  mountpoint: [/api, Shop.Example.org/x/]
  https_only: true
  kill_timeout: 30
  proxy: {read_timeout_seconds: 60, max_body: 10m, buffering: false, sticky: true}
  num_instances: 3
oneshot.migrate: {cmd: migrate, image: 'tools:1'}
"""
    )
    assert manifest.images("1-a") == {"web": "hello:release-1-a", "migrate": "tools:1"}
    found = desired_of(manifest, {"B": "operator", "LAIN_APPNAME": "x"})
    web = found["web"]
    assert (web.app, web.type, web.release, web.instances) == ("hello", ProcType.WEB, 7, 3)
    assert web.template.env == {
        "TZ": "Asia/Shanghai", "PORT": "8000", "A": "manifest", "B": "operator", "LAIN_APPNAME": "hello", "LAIN_PROCNAME": "web",
        "LAIN_APP_RELEASE_VERSION": "1500000000-abc", "LAIN_DOMAIN": "x.org",
    }  # fmt: skip
    assert (web.template.command, web.template.entrypoint, web.template.user, web.template.working_dir) == (
        ("serve",),
        (),
        "1000",
        "/srv",
    )
    assert (web.template.cpu, web.template.memory_bytes, web.template.memory_request_bytes) == (2, 64 << 20, 16 << 20)
    assert web.template.volumes == (Volume("/lain/app/data"), Volume("/c", "cloud-multi"))
    assert (web.template.labels, web.template.kill_timeout_seconds, web.strategy) == (
        {"tier": "front"},
        30,
        Strategy.RECREATE,
    )
    assert web.proxy == ProxyOptions(60, 10 << 20, False, True)
    assert web.routes == (
        Route("hello.lain.localhost", "/", True), Route("hello.x.org", "/", True), Route("hello.lain", "/", True),
        Route("hello.lain.localhost", "/api", True), Route("hello.x.org", "/api", True), Route("hello.lain", "/api", True),
        Route("shop.example.org", "/x", True),
    )  # fmt: skip
    migrate = found["migrate"]
    assert (migrate.type, migrate.routes, migrate.template.readiness, "PORT" in migrate.template.env) == (
        ProcType.ONESHOT,
        (),
        None,
        False,
    )


def test_desired_can_be_stored() -> None:
    one = desired_of(load(GOOD + "web: {env: {A: b}, labels: {c: d}}"))["web"]
    assert msgspec.json.decode(msgspec.json.encode(one), type=Desired) == one


def test_the_main_domain_is_lains_when_there_is_no_other() -> None:
    manifest = load(GOOD + "worker: {}")
    found = manifest.desired(
        domains=["lain.local"], images={"worker": "x"}, release=1, env={}, meta_version="1-a", timezone="Europe/Paris"
    )
    assert found[0].template.env["LAIN_DOMAIN"] == "lain.local" and found[0].template.env["TZ"] == "Europe/Paris"


def test_portals_start_no_instances_of_their_own() -> None:
    found = desired_of(load(GOOD + "service.quote: {port: 7000, portal: {cmd: relay}}"))
    assert found["quote"].instances == 1
    portal = found["portal-quote"]
    assert (portal.instances, portal.template.env["LAIN_SERVICE_NAME"], portal.template.port) == (0, "quote", 7000)


def test_a_route_claimed_twice_within_an_app_is_a_fault_once_domains_are_known() -> None:
    manifest = load(GOOD + "web: {}\nweb.admin: {mountpoint: [hello.x.org]}")
    assert [str(route) for route in manifest.mountpoints("admin", DOMAINS)] == ["hello.x.org"]
    with pytest.raises(ManifestInvalid) as caught:
        desired_of(manifest)
    (fault,) = caught.value.faults
    assert (fault.code, fault.path, fault.line) == ("conflict", "web.admin.mountpoint", 4)


def test_needs_name_the_parts_a_cluster_lacks() -> None:
    manifest = load(
        GOOD
        + """
use_services: {ledger: [db]}
use_resources: {tinycache: {services: [cache]}}
notify: {slack: '#dev'}
worker:
  ports: {9500: }
  secret_files: [a]
  volumes: [d: {backup_full: {schedule: '0 3 * * *', expire: 1d}}]
  cloud_volumes: {dirs: [/c]}
  logs: [a.log]
  dns_search: [x.org]
portal.p: {service_name: s}
"""
    )
    found = manifest.needs()
    assert [need.part for need in found] == [
        "services", "resources", "notify", "stream", "lvault", "backupd", "cloud-volumes", "rebellion", "networkd", "portals",
    ]  # fmt: skip
    assert str(found[3]) == "worker.ports needs stream: TCP and UDP ports of the whole cluster"
    assert [need.part for need in manifest.needs(available=set(PARTS) - {"lvault"})] == ["lvault"]
    assert load(GOOD + "web: {volumes: [data], filters: ['constraint:group==ssd']}").needs() == ()


RESOURCE = """
appname: pg
apptype: resource
build: {base: x}
worker.db:
  memory: "{{ size | default('64M') }}"
  num_instances: "{{ count | default(2) }}"
  stateful: "{{ keep | default(true) }}"
  env: {PASSWORD: "{{ password }}", VERSION: "{{ '08' }}", HTTPS: false}
"""


def test_templates_are_read_as_the_type_their_key_wants() -> None:
    made = render_resource(load(RESOURCE), {"password": "{{ evil }}", "count": 3, "keep": False}, "shop").procs["db"]
    assert (made.num_instances, made.stateful, made.memory_bytes) == (3, False, 64 << 20)
    assert dict(made.env) == {"PASSWORD": "{{ evil }}", "VERSION": "08", "HTTPS": "false"}


def test_a_parameter_without_default_may_wait_but_not_for_ever() -> None:
    assert load(RESOURCE).procs["db"].num_instances == 2
    with pytest.raises(ManifestInvalid) as caught:
        render_resource(load(RESOURCE), {}, "shop")
    (fault,) = caught.value.faults
    assert (fault.code, fault.path) == ("template", "worker.db.env.PASSWORD") and "password" in fault.message


def test_faults_of_a_rendered_resource() -> None:
    with pytest.raises(ManifestInvalid) as caught:
        render_resource(load(RESOURCE), {"password": "x", "size": "big", "cuont": 1}, "shop")
    assert [(fault.code, fault.path, fault.nearest) for fault in caught.value.faults] == [
        ("unknown_key", "use_resources.pg.cuont", "count"), ("bad_value", "worker.db.memory", ""),
    ]  # fmt: skip
    with pytest.raises(ManifestInvalid, match="1 fault"):
        render_resource(load(GOOD), {}, "shop")
    with pytest.raises(InvalidName):
        render_resource(load(RESOURCE), {"password": "x"}, "Shop")
    assert paths_of(RESOURCE + "use_resources: {a: {services: [b]}}") == [("conflict", "use_resources")]


def test_only_a_resource_is_a_template() -> None:
    assert load(GOOD + "web: {cmd: ['{{ x }}']}").procs["web"].cmd == ("{{ x }}",)


def test_names_for_the_console() -> None:
    assert validate_appname("hello-world") == "hello-world"
    assert validate_appname("resource.redis.hello", instance=True) == "resource.redis.hello"
    for bad in ("resource.redis.hello", "", "service", "a/b", "a\n"):
        with pytest.raises(InvalidName) as caught:
            validate_appname(bad)
        assert caught.value.why and caught.value.next
    for bad in ("resource.redis", "resource.A.b", "resource.a.b.c"):
        with pytest.raises(InvalidName):
            validate_appname(bad, instance=True)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://git.example.org/shop/shop.git", "https://git.example.org/shop/shop"),
        ("git.example.org/shop", "http://git.example.org/shop"),
        ("git@git.example.org:shop/shop.git", "ssh://git@git.example.org/shop/shop"),
        ("http://git.example.org/shop/", "http://git.example.org/shop"),
        ("", ""),
    ],
)
def test_one_spelling_of_a_repository(url: str, normal: str) -> None:
    assert normal_giturl(url) == normal == normal_giturl(normal)


def test_image_references() -> None:
    found = parse_image(f"registry.x.org:5000/a/b:1.0@sha256:{'0' * 64}")
    assert found is not None and (found.host, found.repository, found.tag, found.digest[:9]) == (
        "registry.x.org:5000",
        "a/b",
        "1.0",
        "sha256:00",
    )
    lone = parse_image("hello")
    assert lone is not None and (lone.host, lone.repository, lone.tag) == ("", "hello", "")
    nested = parse_image("library/hello:1")
    assert nested is not None and (nested.host, nested.repository) == ("", "library/hello")
    assert [parse_image(bad) for bad in ("", "A", "a:", "a b", "/a", "a/", "a:b:c", "http://a/b", "a" * 600)] == [
        None
    ] * 9


def test_versions() -> None:
    version = parse_version("1500000000.5-abc-dirty")
    assert version is not None and (version.time, version.commit, version.dirty) == (1500000000.5, "abc", True)
    assert [parse_version(bad) for bad in ("", "abc-1", "1", "1-", "1--a", "1-a\n")] == [None] * 6
    with pytest.raises(Invalid, match="is no version"):
        require_version("latest")


EVERYTHING = """
appname: shop
giturl: https://git.example.org/shop/shop
build:
  base: golang:1.22
  prepare: {version: 3, script: [go mod download], keep: [vendor], build_arg: [A=$B]}
  script: [go build -o bin/ ./...]
  build_arg: [X=y]
release: {dest_base: 'debian:12-slim', copy: [{src: bin, dest: /opt/shop}, etc], script: ['true']}
test: {script: [go test ./...]}
use_services: {ledger: [ledger-db]}
use_resources: {tinycache: {services: [cache], size: 256M}}
notify: {slack: '#shop'}
web: {cmd: /opt/shop/front, port: 8080, memory: 64m, healthcheck: /ping, https_only: true}
web.api:
  cmd: [/opt/shop/api, --config, /opt/shop/api.json]
  port: [8081, '53:udp']
  ports: {"9500:8081/udp": {a: b}}
  mountpoint: [/api, api.shop.example.org]
  secret_files: [/opt/shop/api.json]
  proxy: {max_body: 5m, sticky: false}
  dns_search: [example.org]
  filters: []
  readiness: {exec: [a, b], interval_seconds: 2.5}
  container_healthcheck: {cmd: none}
worker.mailer:
  cmd: /opt/shop/mailer
  num_instances: 2
  min_ready_seconds: 5
  workdir: /srv
  cloud_volumes: {type: single, dirs: [/d]}
  volumes:
    - spool
    - /var/mail-archive:
        backup_full: {schedule: "0 3 * * *", expire: 14d, pre_run: /opt/shop/freeze}
service.quote:
  cmd: /opt/shop/quote
  port: 7000
  portal: {cmd: /opt/shop/relay, port: 7001, allow_clients: 'a*'}
"""


@pytest.mark.parametrize(
    "text", [EVERYTHING, GOOD, "appname: a\nimage: nginx\nweb: {}", "appname: a\nbuild: {dockerfile: D, args: {A: b}}"]
)
def test_what_is_dumped_loads_to_the_same_manifest(text: str) -> None:
    manifest = load(text)
    assert load(dump(manifest)) == manifest
    assert dump(load(dump(manifest))) == dump(manifest)


def test_the_reference_page_is_current(tmp_path: Path) -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), (
        "run: python -m lain_sdk.manifest.reference docs/reference/lain-yaml.md"
    )
    assert main(["--check", str(REFERENCE)]) == 0


def test_the_reference_command_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert main(["--check", str(page)]) == 1
    assert main([str(page)]) == 0 and main(["--check", str(page)]) == 0
    assert main([]) == 2
    assert "is not current" in capsys.readouterr().err

"""The plugins of the suite, one a part; and the rule that no test leaves a task or a process behind (``fixtures/leaks.py``)."""

pytest_plugins = [
    "tests.fixtures.leaks",
    "tests.fixtures.etcd",
    "tests.fixtures.docker",
    "tests.fixtures.registry",
    "tests.fixtures.nginx",
    "tests.fixtures.routing",
    "tests.fixtures.cli",
    "tests.fixtures.cluster",
]

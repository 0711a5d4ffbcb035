"""What a failure of etcd or gRPC means to the caller: final, worth another try, or of unknown fate."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from lain_shared import etcd_proto
from lain_shared.errors import (
    Compacted,
    Conflict,
    Denied,
    Invalid,
    LeaseLost,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from lain_shared.etcd_channel import Lost, Members, Refused, fault_from, pause_after, read_credentials
from tests.fixtures.certificates import Authority


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: Connection refused", Refused),
        (StatusCode.UNAVAILABLE, "etcdserver: no leader", Refused),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Refused),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Refused),
        (StatusCode.UNAVAILABLE, "Socket closed", Lost),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure", Lost),
        (StatusCode.UNAVAILABLE, "etcdserver: server stopped", Lost),
        (StatusCode.UNAVAILABLE, "etcdserver: leader changed", Lost),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Lost),
        (StatusCode.UNKNOWN, "", Lost),
        (StatusCode.INTERNAL, "Received RST_STREAM with error code 2", Lost),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Denied),
        (StatusCode.UNAVAILABLE, "rpc error: code = PermissionDenied desc = etcdserver: permission denied", Denied),
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", Unauthenticated),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", Unauthenticated),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", Compacted),
        (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", LeaseLost),
        (StatusCode.NOT_FOUND, "etcdserver: member not found", NotFound),
        (StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists", Conflict),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", Invalid),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", Invalid),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Unavailable),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", Invalid),
        (StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (2200009 vs. 2097152)", Invalid),
        (StatusCode.UNIMPLEMENTED, "unknown method", Unavailable),
    ],
)
def test_each_failure_has_its_meaning(code: StatusCode, said: str, kind: type[Exception]) -> None:
    fault = fault_from(code, said)
    assert type(fault) is kind
    assert said in str(getattr(fault, "why", "") or fault)


def test_a_full_etcd_says_what_to_do() -> None:
    fault = fault_from(StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
    assert isinstance(fault, Unavailable)
    assert fault.error_code == "etcd_full"
    assert "defragment" in fault.next


@given(st.integers(1, 10_000))
def test_a_pause_is_never_longer_than_a_second(failures: int) -> None:
    assert 0 < pause_after(failures) <= 1


def test_no_endpoint_is_an_error_of_configuration() -> None:
    with pytest.raises(Invalid, match="no etcd endpoint"):
        Members([], tls_dir=None, timeout_seconds=1)


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    folder = Authority(tmp_path).issue("console")
    read_credentials(folder)
    other = Authority(tmp_path / "other").issue("console")
    (folder / "key.pem").write_bytes((other / "key.pem").read_bytes())
    with pytest.raises(Invalid, match="do not fit together"):
        read_credentials(folder)
    (folder / "key.pem").unlink()
    with pytest.raises(Invalid, match=r"key\.pem cannot be read") as error:
        read_credentials(folder)
    assert error.value.why == "No such file or directory"


# --- messages ---------------------------------------------------------------------------------------------------------


def test_messages_have_etcds_own_numbers() -> None:
    """Bytes as etcd's own clients put them on the wire."""
    watch = etcd_proto.WatchRequest(
        create_request=etcd_proto.WatchCreateRequest(key=b"a", range_end=b"b", start_revision=5, progress_notify=True)
    )
    assert watch.SerializeToString() == bytes.fromhex("0a0a0a016112016218052001")
    compare = etcd_proto.Compare(target=2, key=b"k", mod_revision=0)
    assert compare.SerializeToString() == bytes.fromhex("10021a016b3000")
    assert etcd_proto.LeaseGrantRequest(TTL=5, ID=7).SerializeToString() == bytes.fromhex("08051007")
    answer = etcd_proto.WatchResponse.FromString(bytes.fromhex("0a021809" + "5a07" + "1205" + "0a0161" + "1809"))
    assert (answer.header.revision, answer.events[0].kv.key, answer.events[0].kv.mod_revision) == (9, b"a", 9)


def test_a_message_that_is_not_declared_is_named() -> None:
    with pytest.raises(AttributeError, match="declares no message Nonsense"):
        _ = etcd_proto.Nonsense

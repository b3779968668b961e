"""Roles and namespaces."""

import pytest

from jobledger.service.access.principal import ANONYMOUS, Principal, Role, local_principal
from jobledger.service.errors import Forbidden


def principal(role: Role, *namespaces: str) -> Principal:
    return Principal(name="ci", role=role, namespaces=frozenset(namespaces) or None)


def test_a_reader_reads_and_does_not_write() -> None:
    """In the namespaces of its token."""
    reader = principal(Role.READER)
    assert reader.may_read("a")
    assert not reader.may_write("a")
    with pytest.raises(Forbidden, match="has the role reader"):
        reader.require_write("a")


def test_a_writer_writes_only_in_its_namespaces() -> None:
    """Jobs elsewhere do not exist for it; namespaces are compared exactly."""
    writer = principal(Role.WRITER, "a", "b")
    writer.require_write("a")
    assert writer.visible == frozenset({"a", "b"})
    for other in ("c", "A", "a ", "ab", "", "*"):
        assert not writer.may_read(other)
        assert not writer.may_write(other)
        with pytest.raises(Forbidden, match="'a', 'b'"):
            writer.require_write(other)


def test_an_admin_may_do_everything_everywhere() -> None:
    """Including metrics of the whole installation."""
    admin = principal(Role.ADMIN)
    admin.require_write("any")
    admin.require_observe()
    assert admin.visible is None


def test_metrics_need_a_token_for_all_namespaces() -> None:
    """A reader of all namespaces may scrape them; one of some may not."""
    principal(Role.READER).require_observe()
    for role in (Role.READER, Role.WRITER):
        with pytest.raises(Forbidden, match="all namespaces"):
            principal(role, "a").require_observe()


def test_an_anonymous_principal_sees_no_job() -> None:
    """Public routes use a principal without rights."""
    assert ANONYMOUS.visible == frozenset()
    assert not ANONYMOUS.may_read("default")
    assert not ANONYMOUS.may_write("default")
    assert not ANONYMOUS.may_observe


def test_without_tokens_a_local_user_has_every_right_under_a_stated_name() -> None:
    """The stated name becomes the actor."""
    local = local_principal("alice")
    assert (local.name, local.token_id) == ("alice", "")
    local.require_write("any")
    assert local_principal("").name == ""


def test_a_refusal_names_some_namespaces_of_many() -> None:
    """The message is limited."""
    many = principal(Role.WRITER, *(f"namespace-{n:03}" for n in range(64)))
    with pytest.raises(Forbidden, match="and 59 more") as refused:
        many.require_write("x" * 10_000)
    assert len(str(refused.value)) < 400

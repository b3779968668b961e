"""Sessions: their limits, their ends, and what their file has."""

import stat
from pathlib import Path

import pytest

from jobledger.service.access.principal import Role
from jobledger.service.access.sessions import Sessions
from jobledger.service.access.tokens import TokenFile
from jobledger.service.errors import NotReady, Unauthorized
from jobledger.service.limits import (
    SESSION_IDLE_SECONDS,
    SESSION_LIFETIME_SECONDS,
    SESSION_SEEN_SECONDS,
    SESSIONS_MAX_PER_TOKEN,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.json", poll_seconds=0)


@pytest.fixture
def sessions(tmp_path: Path, tokens: TokenFile, clock: Clock) -> Sessions:
    return Sessions(tmp_path / "sessions.json", tokens, clock=clock)


async def test_a_session_has_the_rights_of_its_token(tokens: TokenFile, sessions: Sessions) -> None:
    """The file has neither the token nor the cookie, and belongs to its owner alone."""
    _, token = tokens.create("alice", Role.WRITER, ["a"])
    secret = await sessions.sign_in(token)
    principal = sessions.principal(secret)
    assert (principal.name, principal.role, principal.namespaces) == ("alice", Role.WRITER, frozenset({"a"}))
    assert sessions.is_valid(secret, principal)
    path = tokens.path.with_name("sessions.json")
    assert secret not in path.read_text()
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("token", ["", "x", "jlt_12345678_" + "x" * 43, "jlt_\ud800"])
async def test_a_wrong_token_begins_no_session(sessions: Sessions, tokens: TokenFile, token: str) -> None:
    """Nothing is written."""
    tokens.create("alice", Role.READER)
    with pytest.raises(Unauthorized):
        await sessions.sign_in(token)
    assert not tokens.path.with_name("sessions.json").exists()


async def test_an_unused_session_ends(tokens: TokenFile, sessions: Sessions, clock: Clock) -> None:
    """Use keeps it alive, until its longest life is over."""
    _, token = tokens.create("alice", Role.READER)
    secret = await sessions.sign_in(token)
    began = clock.now
    while clock.now + SESSION_IDLE_SECONDS - 1 < began + SESSION_LIFETIME_SECONDS:
        clock.now += SESSION_IDLE_SECONDS - 1
        sessions.principal(secret)
        await sessions.note_use(secret)
    clock.now = began + SESSION_LIFETIME_SECONDS
    with pytest.raises(Unauthorized, match="this session has ended"):
        sessions.principal(secret)
    secret = await sessions.sign_in(token)
    clock.now += SESSION_IDLE_SECONDS
    with pytest.raises(Unauthorized):
        sessions.principal(secret)


async def test_the_last_use_is_written_rarely(tokens: TokenFile, sessions: Sessions, clock: Clock) -> None:
    """The file changes once per interval, not with each request."""
    _, token = tokens.create("alice", Role.READER)
    secret = await sessions.sign_in(token)
    path = tokens.path.with_name("sessions.json")
    before = path.read_bytes()
    clock.now += SESSION_SEEN_SECONDS - 1
    await sessions.note_use(secret)
    assert path.read_bytes() == before
    clock.now += 1
    await sessions.note_use(secret)
    assert path.read_bytes() != before


async def test_a_token_has_a_limited_number_of_sessions(tokens: TokenFile, sessions: Sessions) -> None:
    """The oldest one ends."""
    _, token = tokens.create("alice", Role.READER)
    secrets = [await sessions.sign_in(token) for _ in range(SESSIONS_MAX_PER_TOKEN + 1)]
    with pytest.raises(Unauthorized):
        sessions.principal(secrets[0])
    for secret in secrets[1:]:
        sessions.principal(secret)


async def test_all_sessions_together_are_limited(
    tokens: TokenFile, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all tokens, the oldest one ends."""
    monkeypatch.setattr("jobledger.service.access.sessions.SESSIONS_MAX_COUNT", 2)
    texts = [tokens.create(name, Role.READER)[1] for name in "abc"]
    secrets = [await sessions.sign_in(text) for text in texts]
    with pytest.raises(Unauthorized):
        sessions.principal(secrets[0])
    assert [sessions.principal(secret).name for secret in secrets[1:]] == ["b", "c"]


async def test_a_new_sign_in_ends_the_session_of_the_browser(tokens: TokenFile, sessions: Sessions) -> None:
    """A cookie that was planted before the sign-in is worth nothing after it."""
    _, token = tokens.create("alice", Role.READER)
    first = await sessions.sign_in(token)
    await sessions.sign_in(token, replaces=first)
    with pytest.raises(Unauthorized):
        sessions.principal(first)


async def test_another_process_accepts_the_session(
    tokens: TokenFile, sessions: Sessions, clock: Clock
) -> None:
    """A worker, or the service after a restart; a sign-out there ends it here."""
    _, token = tokens.create("alice", Role.READER)
    secret = await sessions.sign_in(token)
    other = Sessions(tokens.path.with_name("sessions.json"), tokens, clock=clock)
    principal = other.principal(secret)
    await other.sign_out(secret)
    assert not sessions.is_valid(secret, principal)


async def test_a_revoked_token_ends_its_sessions(tokens: TokenFile, sessions: Sessions) -> None:
    """At once."""
    _, token = tokens.create("alice", Role.READER)
    secret = await sessions.sign_in(token)
    principal = sessions.principal(secret)
    tokens.revoke("alice")
    assert not sessions.is_valid(secret, principal)
    with pytest.raises(Unauthorized, match="revoked"):
        sessions.principal(secret)


async def test_a_damaged_file_opens_nothing(tokens: TokenFile, sessions: Sessions) -> None:
    """The answer names no path."""
    _, token = tokens.create("alice", Role.READER)
    secret = await sessions.sign_in(token)
    tokens.path.with_name("sessions.json").write_text("{")
    with pytest.raises(NotReady, match="the reason is in the log"):
        sessions.principal(secret)

"""Tokens: creation, authentication, revocation and expiry."""

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobledger.service.access.principal import Role
from jobledger.service.access.tokens import TokenFile, check_bind
from jobledger.service.errors import InvalidSettings, Unauthorized
from jobledger.service.limits import TOKEN_NAME_MAX_CHARACTERS
from jobledger.store.model.errors import InvalidInput
from tests.support.middleware import bearer, late


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "state" / "tokens.json", clock=late, poll_seconds=0)


def test_a_token_authenticates_with_its_rights(tokens: TokenFile) -> None:
    """Its name is the actor."""
    record, text = tokens.create("ci", Role.WRITER, ["b", "a", "a"])
    found = tokens.authenticate(bearer(text))
    assert (found.name, found.role, found.namespaces, found.token_id) == (
        "ci",
        Role.WRITER,
        frozenset({"a", "b"}),
        record.id,
    )
    assert record.namespaces == ("a", "b")


def test_the_text_of_a_token_is_stored_nowhere(tokens: TokenFile) -> None:
    """The private file has its hash; neither the object nor the record shows it."""
    record, text = tokens.create("ci", Role.ADMIN)
    secret = text.split("_", 2)[2]
    assert len(secret) == 43
    content = tokens.path.read_text()
    assert secret not in content + repr(tokens) + repr(record) + repr(vars(tokens))
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(tokens.path.parent.stat().st_mode) == 0o700


def test_two_tokens_are_never_the_same(tokens: TokenFile) -> None:
    """Nor are their ids."""
    made = [tokens.create("ci", Role.READER) for _ in range(50)]
    assert len({record.id for record, _ in made}) == len({text for _, text in made}) == 50


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text.upper(),
        lambda text: "jlt_aaaaaaaa_" + text.split("_", 2)[2],
        lambda text: text.split("_", 2)[2],
        lambda text: text + "\n",
        lambda text: text + " x",
        lambda text: text.replace("jlt", "jlT"),
        lambda _: "",
        lambda _: "é",
    ],
)
def test_an_invalid_header_is_rejected_without_quoting_it(
    tokens: TokenFile, spoil: Callable[[str], str]
) -> None:
    """A mistyped secret must not be logged."""
    _, text = tokens.create("ci", Role.ADMIN)
    sent = spoil(text)
    with pytest.raises(Unauthorized) as refused:
        tokens.authenticate(bearer(sent))
    assert text[-20:] not in str(refused.value)
    assert not sent or sent not in str(refused.value)


@pytest.mark.parametrize("scheme", ["", "Basic ", "Token ", "Bearer", "Bearer\t", "Bearer Bearer "])
def test_only_the_bearer_scheme_is_accepted(tokens: TokenFile, scheme: str) -> None:
    """With one token."""
    _, text = tokens.create("ci", Role.ADMIN)
    with pytest.raises(Unauthorized, match="Bearer"):
        tokens.authenticate(f"{scheme}{text}".encode())


def test_the_scheme_is_case_insensitive(tokens: TokenFile) -> None:
    """As in RFC 9110; extra spaces are allowed."""
    _, text = tokens.create("ci", Role.ADMIN)
    assert tokens.authenticate(f"bEARER   {text} ".encode()).name == "ci"


def test_a_missing_token_and_a_wrong_one_have_different_messages(tokens: TokenFile) -> None:
    """Without one, the message names the command."""
    tokens.create("ci", Role.ADMIN)
    with pytest.raises(Unauthorized, match="jobledger token create"):
        tokens.authenticate(None)


def test_unknown_wrong_and_revoked_tokens_have_the_same_message(tokens: TokenFile) -> None:
    """Valid ids are not revealed."""
    record, text = tokens.create("ci", Role.ADMIN)
    _, other = tokens.create("ci", Role.ADMIN)
    tokens.revoke(record.id)
    wrong = f"jlt_{record.id}_{other.split('_', 2)[2]}"
    unknown = f"jlt_aaaaaaaa_{other.split('_', 2)[2]}"
    answers = set()
    for sent in (text, wrong, unknown):
        with pytest.raises(Unauthorized) as refused:
            tokens.authenticate(bearer(sent))
        answers.add(str(refused.value))
    assert len(answers) == 1


def test_a_revocation_takes_effect_immediately_on_every_replica(tokens: TokenFile) -> None:
    """Without a restart; open feeds check `is_valid`."""
    record, text = tokens.create("ci", Role.READER)
    replica = TokenFile(tokens.path, clock=late, poll_seconds=0)
    principal = replica.authenticate(bearer(text))
    assert replica.is_valid(principal)
    tokens.revoke(record.id)
    assert not replica.is_valid(principal)
    with pytest.raises(Unauthorized):
        replica.authenticate(bearer(text))


def test_under_load_a_stat_of_the_file_is_valid_for_a_limited_time(tokens: TokenFile) -> None:
    """A revocation takes effect after that time."""
    record, text = tokens.create("ci", Role.READER)
    patient, eager = (TokenFile(tokens.path, clock=late, poll_seconds=each) for each in (3600, 0))
    tokens.revoke(record.id)
    assert patient.authenticate(bearer(text)).name == "ci"
    with pytest.raises(Unauthorized):
        eager.authenticate(bearer(text))


def test_a_change_within_the_same_tick_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recent file is read again even if its stat is equal."""
    now = time.time_ns()
    path = made_elsewhere(tmp_path)
    monkeypatch.setattr("jobledger.service.access.tokens.file_fingerprint", lambda _: (1, 1, 1, now, now))
    service = TokenFile(path, clock=lambda: now, poll_seconds=0)
    before = [record.role for record in service.records()]
    service.path.write_text(service.path.read_text().replace('"reader"', '"writer"'))
    assert [*before, *(record.role for record in service.records())] == [Role.READER, Role.WRITER]


def made_elsewhere(tmp_path: Path) -> Path:
    """A token file with one reader."""
    elsewhere = TokenFile(tmp_path / "elsewhere.json")
    elsewhere.create("ci", Role.READER)
    return elsewhere.path


def test_a_file_that_did_not_change_is_not_read_again(
    tokens: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request costs one stat."""
    _, text = tokens.create("ci", Role.READER)
    tokens.authenticate(bearer(text))
    monkeypatch.setattr("jobledger.service.access.tokens.read_trusted", pytest.fail)
    tokens.authenticate(bearer(text))


def test_a_service_requires_tokens_from_the_first_one_on(tokens: TokenFile) -> None:
    """Even if all are revoked."""
    service = TokenFile(tokens.path, clock=late, poll_seconds=0)
    opened = [service.is_open]
    record, _ = tokens.create("ci", Role.READER)
    opened.append(service.is_open)
    tokens.revoke(record.id)
    assert [*opened, service.is_open, TokenFile(tokens.path).is_open] == [True, False, False, False]


def test_a_feed_without_a_token_ends_with_the_first_token(tokens: TokenFile) -> None:
    """`is_valid` without a token means that none is required."""
    from jobledger.service.access.principal import local_principal

    local = local_principal("alice")
    assert tokens.is_valid(local)
    tokens.create("ci", Role.READER)
    assert not tokens.is_valid(local)


def test_an_expired_token_is_rejected(tmp_path: Path) -> None:
    """Also for a request in flight; its record stays."""
    now = [late()]
    file = TokenFile(tmp_path / "tokens.json", clock=lambda: now[0], poll_seconds=0)
    record, text = file.create("ci", Role.READER, expires_seconds=60)
    principal = file.authenticate(bearer(text))
    other = TokenFile(tmp_path / "tokens.json", clock=lambda: now[0], poll_seconds=0)
    now[0] += 59 * 10**9
    assert other.authenticate(bearer(text)) == principal
    other.require_valid(principal)
    now[0] += 2 * 10**9
    for each in (file, other):
        with pytest.raises(Unauthorized, match="has expired"):
            each.authenticate(bearer(text))
        with pytest.raises(Unauthorized, match="during the request"):
            each.require_valid(principal)
        assert not each.is_open
    assert [one.expires for one in other.records()] == [record.expires]
    wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
    with pytest.raises(Unauthorized, match="unknown or was revoked"):
        file.authenticate(bearer(wrong))
    assert file.revoke(record.id).revoked


@pytest.mark.parametrize("seconds", [0.5, 10 * 366 * 86_400.0, -1.0])
def test_an_invalid_expiry_is_rejected(tokens: TokenFile, seconds: float) -> None:
    """Nothing is written."""
    with pytest.raises(InvalidInput, match="expires must be"):
        tokens.create("ci", Role.READER, expires_seconds=seconds)
    assert not tokens.records()


def test_a_file_with_expiring_tokens_is_rejected_by_older_releases(tmp_path: Path) -> None:
    """By its format: they would ignore the expiry."""
    file = TokenFile(tmp_path / "tokens.json", poll_seconds=0)
    file.create("ci", Role.READER)
    assert json.loads(file.path.read_text())["format"] == 1
    file.create("ci", Role.READER, expires_seconds=60)
    assert json.loads(file.path.read_text())["format"] == 2


def test_a_name_of_several_tokens_is_not_enough_to_revoke(tokens: TokenFile) -> None:
    """A successor may have the same name; then the id is required."""
    old, _ = tokens.create("ci", Role.READER)
    new, text = tokens.create("ci", Role.READER)
    with pytest.raises(InvalidInput, match=f"{old.id}, {new.id}"):
        tokens.revoke("ci")
    tokens.revoke(old.id)
    assert tokens.authenticate(bearer(text)).token_id == new.id
    assert tokens.revoke("ci").id == new.id
    for gone in ("ci", old.id, "nobody"):
        with pytest.raises(InvalidInput, match="no valid token"):
            tokens.revoke(gone)


@pytest.mark.parametrize(
    "name", ["", " ci", "ci ", "a\nb", "a\x1b[31m", "\udcff", "x" * (TOKEN_NAME_MAX_CHARACTERS + 1)]
)
def test_an_invalid_token_name_is_rejected(tokens: TokenFile, name: str) -> None:
    """It becomes the actor of events."""
    with pytest.raises(InvalidInput, match="invalid token name"):
        tokens.create(name, Role.READER)


@pytest.mark.parametrize("namespaces", [[], [""], ["*"], ["a\0"], ["x" * 256], [str(n) for n in range(65)]])
def test_invalid_namespaces_are_rejected(tokens: TokenFile, namespaces: list[str]) -> None:
    """Above all an empty list, which must not mean all of them."""
    with pytest.raises(InvalidInput, match="namespace"):
        tokens.create("ci", Role.READER, namespaces)
    assert not tokens.path.exists()


def test_an_admin_of_some_namespaces_is_rejected(tokens: TokenFile) -> None:
    """An admin is for all namespaces."""
    with pytest.raises(InvalidInput, match="all namespaces"):
        tokens.create("ci", Role.ADMIN, ["a"])


def test_only_invalid_tokens_are_dropped_at_the_limit(
    tokens: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest ones first."""
    monkeypatch.setattr("jobledger.service.access.token_records.TOKENS_MAX_COUNT", 3)
    first, _ = tokens.create("a", Role.READER)
    for name in "bc":
        tokens.create(name, Role.READER)
    with pytest.raises(InvalidInput, match="revoke one"):
        tokens.create("d", Role.READER)
    tokens.revoke(first.id)
    tokens.create("d", Role.READER)
    assert [record.name for record in tokens.records()] == ["b", "c", "d"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "::ffff:127.0.0.1", "localhost"])
def test_without_tokens_the_loopback_is_allowed(tokens: TokenFile, host: str) -> None:
    """By address or by name."""
    check_bind(host, tokens)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.0.2.1", "::ffff:192.0.2.1", "127.0.0.1.invalid", "0", "[::]"]
)
def test_without_tokens_other_addresses_are_rejected(tokens: TokenFile, host: str) -> None:
    """The message has both remedies."""
    with pytest.raises(InvalidSettings, match=r"jobledger token create(.|\n)*127\.0\.0\.1"):
        check_bind(host, tokens)


def test_a_name_with_one_other_address_is_not_loopback(
    tokens: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its addresses count."""
    answers = [(0, 0, 0, "", ("127.0.0.1", 0)), (0, 0, 0, "", ("192.0.2.1", 0))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(InvalidSettings):
        check_bind("both", tokens)


def test_with_a_token_any_address_is_allowed(tokens: TokenFile) -> None:
    """Even a revoked one: then all requests are refused."""
    record, _ = tokens.create("ci", Role.READER)
    check_bind("0.0.0.0", tokens)
    tokens.revoke(record.id)
    check_bind("0.0.0.0", tokens)


def test_with_a_damaged_token_file_the_service_does_not_start(tokens: TokenFile) -> None:
    """Not even on the loopback address."""
    tokens.path.parent.mkdir()
    tokens.path.write_text("{")
    with pytest.raises(InvalidSettings, match="damaged"):
        check_bind("127.0.0.1", tokens)

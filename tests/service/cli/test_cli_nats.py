"""`jobledger subscriptions create` and `jobledger nats accounts`, for programs with their own accounts."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobledger.service.nats_auth import accounts_config, parse_subscriber
from tests.support.command_line import Operator
from tests.support.service_process import RunningService, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A running service."""
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def operator(service: RunningService, tmp_path: Path) -> Operator:
    """Runs commands against that service."""
    return Operator(service, tmp_path)


def test_subscriptions_of_each_form_are_created_and_get_accounts(operator: Operator) -> None:
    """Created once, shown, rejected with other options; the accounts follow the subscriptions."""
    words = ("subscriptions", "create", "billing", "--type", "state", "--state", "failed", "--start", "now")
    assert "billing" in operator(*words).stdout
    operator(*words)
    assert "types" in operator("subscriptions", "create", "billing", "--start", "now", code=2).stderr
    operator("subscriptions", "create", "shipping", "--members", "4")
    operator("subscriptions", "create", "node", "--plain", "--members", "2")
    shown = operator.json("subscriptions", "create", "audit", "--elastic")
    assert (shown["Form"], len(shown["Partitions"])) == ("elastic", 32)
    operator("subscriptions", "create", "wrong", "--partitions", "4", code=2)
    printed = operator("nats", "accounts", "--from-service").stdout
    wanted = ("audit:32e", "billing", "node:2:plain", "shipping:4")
    assert printed == accounts_config([parse_subscriber(text) for text in wanted])


def test_nkeys_are_created_once_and_never_printed(operator: Operator, tmp_path: Path) -> None:
    """Seeds are in private files; a repeated run uses the same keys."""
    words = ("nats", "accounts", "-s", "billing", "--nkeys", str(tmp_path / "keys"))
    first = operator(*words)
    files = sorted((tmp_path / "keys").iterdir())
    assert [file.name for file in files] == ["billing.nk", "jobledger.nk", "operator.nk", "system.nk"]
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().strip() not in first.stdout + first.stderr
    assert operator(*words).stdout == first.stdout
    assert first.stdout.count("nkey: U") == 4
    assert "password" not in first.stdout

"""`jobledger token`: what it prints, and what it stores."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobledger.service.access.tokens import TokenFile
from jobledger.service.cli.token import token
from jobledger.store.model.errors import InvalidInput


def run(directory: Path, *arguments: str) -> Result:
    """The command, on the token file of a data directory."""
    return CliRunner().invoke(token, [*arguments, "--data-dir", str(directory)])


def test_new_token_is_all_of_standard_output(tmp_path: Path) -> None:
    """For a variable or a file; messages go to standard error."""
    made = run(tmp_path, "create", "--name", "ci", "--role", "writer", "--namespace", "a", "--namespace", "b")
    text = made.stdout.removesuffix("\n")
    assert made.exit_code == 0
    principal = TokenFile(tmp_path / "tokens.json").authenticate(f"Bearer {text}".encode())
    assert (principal.name, principal.namespaces) == ("ci", frozenset({"a", "b"}))
    assert text not in made.stderr
    assert "only this once" in made.stderr


def test_new_token_as_json_is_a_document(tmp_path: Path) -> None:
    """With all its fields."""
    made = run(tmp_path, "create", "--name", "ops", "--role", "admin", "-o", "json")
    document = json.loads(made.stdout)
    assert document["Namespaces"] is None
    assert document["Token"].startswith(f"jlt_{document['ID']}_")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--name", "ci", "--role", "writer"),
        ("--name", "ci", "--role", "writer", "--namespace", "a", "--all-namespaces"),
        ("--name", "ci", "--role", "root"),
        ("--role", "reader", "--all-namespaces"),
    ],
)
def test_token_requires_name_role_and_namespaces(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """All namespaces are never the default."""
    assert run(tmp_path, "create", *arguments).exit_code == 2
    assert not (tmp_path / "tokens.json").exists()


def test_admin_token_of_some_namespaces_is_rejected(tmp_path: Path) -> None:
    """With a remedy."""
    made = run(tmp_path, "create", "--name", "x", "--role", "admin", "--namespace", "a")
    assert isinstance(made.exception, InvalidInput)


def test_list_never_shows_tokens_or_hashes(tmp_path: Path) -> None:
    """Revoked tokens are listed."""
    made = run(tmp_path, "create", "--name", "ci", "--role", "reader", "--all-namespaces").stdout.strip()
    token_id = made.split("_")[1]
    run(tmp_path, "revoke", "ci")
    table = run(tmp_path, "list").stdout
    assert table.split()[:6] == ["ID", "Name", "Role", "Namespaces", "Created", "Expires"]
    assert token_id in table
    assert "all namespaces" in table
    lines = run(tmp_path, "list", "-o", "ndjson").stdout
    assert json.loads(lines)["Revoked"]
    digest = json.loads((tmp_path / "tokens.json").read_text())["tokens"][0]["sha256"]
    for shown in (table, lines, run(tmp_path, "list", "-o", "yaml").stdout):
        assert made not in shown
        assert digest not in shown
    assert run(tmp_path, "list", "-q").stdout == f"{token_id}\n"


def test_empty_list_names_the_token_file(tmp_path: Path) -> None:
    """For programs the list is empty."""
    done = run(tmp_path, "list")
    assert (done.stdout, done.exit_code) == ("", 0)
    assert done.stderr == f"No tokens in {tmp_path}/tokens.json: the service requires none.\n"
    assert json.loads(run(tmp_path, "list", "-o", "json").stdout) == {"Items": []}


def test_settings_determine_the_token_file(tmp_path: Path) -> None:
    """The same settings as of the service; a flag has precedence."""
    config = tmp_path / "config.toml"
    config.write_text(f'tokens_file = "{tmp_path}/elsewhere.json"\n')
    arguments = ["create", "--name", "ci", "--role", "admin", "--config", str(config)]
    assert CliRunner().invoke(token, arguments).exit_code == 0
    assert len(TokenFile(tmp_path / "elsewhere.json").records()) == 1
    flag = ["--tokens-file", str(tmp_path / "flag.json")]
    assert CliRunner().invoke(token, [*arguments, *flag]).exit_code == 0
    assert len(TokenFile(tmp_path / "flag.json").records()) == 1

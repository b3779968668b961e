"""`jobledger audit key`, `seal` and `seals`: their output and their effects."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobledger.service.audit.keys import KeyFile
from jobledger.service.audit.model.checkpoint import open_seal
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.audit.seals import split_notes
from jobledger.service.cli.audit_keys import key
from jobledger.service.cli.audit_log import trusted_keys
from jobledger.service.cli.options import Session
from jobledger.store.model.errors import InvalidInput
from tests.support.service_process import jobledger, running_service


def run(directory: Path, *arguments: str) -> Result:
    """The command, on the keys of a data directory."""
    return CliRunner().invoke(key, [*arguments, "--data-dir", str(directory)])


def test_only_the_new_key_goes_to_standard_output(tmp_path: Path) -> None:
    """It is the public half; the file is private, and a second key is rejected."""
    made = run(tmp_path, "create", "--name", "example.com/jobs")
    assert made.exit_code == 0
    path = tmp_path / "audit" / "keys.json"
    [kept] = KeyFile(path).records()
    assert made.stdout == f"{kept.key}\n"
    assert VerifierKey.parse(made.stdout) == kept.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in made.stderr
    assert isinstance(run(tmp_path, "create", "--name", "b").exception, InvalidInput)


def test_a_rotation_prints_the_new_key_and_when_the_old_one_retires(tmp_path: Path) -> None:
    """Standard output has the new key only."""
    old = VerifierKey.parse(run(tmp_path, "create", "--name", "a").stdout)
    turned = run(tmp_path, "rotate", "--overlap", "2d")
    new = VerifierKey.parse(turned.stdout)
    assert f"{old.short} signs until 2" in turned.stderr
    keys = KeyFile(tmp_path / "audit" / "keys.json")
    assert [signer.key for signer in keys.signers()] == [new, old]
    at_once = VerifierKey.parse(run(tmp_path, "rotate", "--overlap", "0", "--name", "b").stdout)
    assert at_once.name == "b"
    assert at_once in [signer.key for signer in keys.signers()]


def test_an_invalid_overlap_is_a_usage_error(tmp_path: Path) -> None:
    """Like any other duration."""
    run(tmp_path, "create", "--name", "a")
    assert run(tmp_path, "rotate", "--overlap", "soon").exit_code == 2


def test_without_a_key_seals_are_checked_with_the_keys_of_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notice says that they prove nothing about the service; without any, what to pass."""
    other = VerifierKey.parse(run(tmp_path / "other", "create", "--name", "other").stdout)
    settings = Session({"data_dir": tmp_path}).settings
    with pytest.raises(InvalidInput, match=r"keys\.json does not exist; pass --key"):
        trusted_keys((), settings)
    own = VerifierKey.parse(run(tmp_path, "create", "--name", "own").stdout)
    assert trusted_keys((), settings) == (own,)
    assert "service's own keys" in capsys.readouterr().err
    assert trusted_keys((str(other),), settings) == (other,)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_service_is_sealed_and_checked_from_the_command_line(tmp_path: Path) -> None:
    """Keys, a seal, the list of seals: the output can be checked as printed."""
    with running_service(tmp_path, "--seal-every-events", "0", "--seal-every-seconds", "0") as service:
        url = service.url
        assert "No seals yet" in jobledger(tmp_path, "audit", "seals", url=url).stderr
        assert jobledger(tmp_path, "audit", "seal", url=url).returncode == 6
        jobledger(tmp_path, "job", "run", "examples/hello-world-v1.yaml", url=url)
        keys = jobledger(tmp_path, "audit", "key", "show", "-q", url=url).stdout
        trusted = [VerifierKey.parse(line) for line in keys.splitlines()]
        sealed = jobledger(tmp_path, "audit", "seal", url=url)
        assert open_seal(sealed.stdout, trusted).size == 1
        assert "1 events are sealed; root " in sealed.stderr
        jobledger(tmp_path, "job", "run", "examples/hello-world-v2.yaml", url=url)
        document = json.loads(jobledger(tmp_path, "audit", "seal", "-o", "json", url=url).stdout)
        assert document["Size"] == 2
        notes = jobledger(tmp_path, "audit", "seals", "--notes", url=url).stdout
        assert [open_seal(note, trusted).size for note in split_notes(notes)] == [2, 1]
        table = jobledger(tmp_path, "audit", "seals", "--limit", "1", url=url).stdout.splitlines()
        assert table[0].split() == ["Seal", "Events", "Sealed", "Root", "Keys"]
        assert table[1].split()[:2] == ["2", "2"]
        assert len(table) == 2
        lines = jobledger(tmp_path, "audit", "seals", "--all", "-q", url=url).stdout
        assert lines == "2\n1\n"
        shown = jobledger(tmp_path, "audit", "key", "show", url=url).stdout.splitlines()
        assert shown[0].split() == ["Signs", "Trusted", "Created", "Retires", "Key"]
        assert shown[1].split()[0] == "yes"
        wrong = jobledger(tmp_path, "audit", "seals", "--notes", "-o", "json", url=url)
        assert wrong.returncode == 2

"""The sources of settings and their precedence, origins, and rejected values."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from jobledger.service.cli.serve import config
from jobledger.service.errors import InvalidSettings
from jobledger.service.settings import SETTINGS, LoadedSettings, Settings, load_settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """XDG directories for this test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "config" / "jobledger").mkdir(parents=True)
    return tmp_path


def write_config(home: Path, text: str) -> Path:
    """Writes the TOML file in its default place."""
    path = home / "config" / "jobledger" / "config.toml"
    path.write_text(text)
    return path


def rejection(flags: dict[str, object] | None = None, env: dict[str, str] | None = None) -> str:
    """The error message for these settings."""
    with pytest.raises(InvalidSettings) as caught:
        load_settings(flags or {}, env or {})
    return str(caught.value)


def test_settings_have_defaults(home: Path) -> None:
    """No setting is required, and every origin is `default`."""
    loaded = load_settings({}, {})
    assert (loaded.settings.host, loaded.settings.port) == ("127.0.0.1", 1234)
    assert loaded.settings.data_dir == home / "state" / "jobledger"
    assert loaded.settings.tokens_file == home / "state" / "jobledger" / "tokens.json"
    assert set(loaded.origins) == set(SETTINGS)
    assert set(loaded.origins.values()) == {"default"}


def test_flag_precedes_environment_precedes_file_precedes_default(home: Path) -> None:
    """Each source is shown as the origin of its values."""
    path = write_config(home, 'port = 1\nhost = "::1"\nready_max_gap = 5\n')
    loaded = load_settings(
        {"port": "3", "host": None}, {"JOBLEDGER_PORT": "2", "JOBLEDGER_READY_MAX_GAP": "6"}
    )
    settings, origins = loaded.settings, loaded.origins
    assert (settings.port, settings.ready_max_gap, settings.host) == (3, 6, "::1")
    assert origins["port"] == "flag"
    assert origins["ready_max_gap"] == "JOBLEDGER_READY_MAX_GAP"
    assert origins["host"] == str(path)
    assert origins["url"] == "default"
    assert loaded.config_file == path


def test_token_file_is_in_the_data_directory_by_default(tmp_path: Path) -> None:
    """It moves with the data directory, unless it has its own setting."""
    assert load_settings({"data_dir": str(tmp_path)}, {}).settings.tokens_file == tmp_path / "tokens.json"
    named = load_settings({"data_dir": str(tmp_path), "tokens_file": "/t.json"}, {}).settings.tokens_file
    assert named == Path("/t.json")


def test_path_in_the_file_is_relative_to_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not depend on the working directory; the path of a flag does."""
    path = write_config(home, 'tls_ca = "ca.pem"\ntoken_file = "~/token"\n')
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(home)
    settings = load_settings({"data_dir": "data"}, {}).settings
    assert settings.tls_ca == path.parent / "ca.pem"
    assert settings.token_file == Path("/home/someone/token")
    assert settings.data_dir == home / "data"


def test_the_file_can_be_named_by_flag_or_environment(tmp_path: Path) -> None:
    """`--config` precedes JOBLEDGER_CONFIG; a named file must exist."""
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text("port = 1\n")
    other.write_text("port = 2\n")
    assert load_settings({}, {"JOBLEDGER_CONFIG": str(one)}).settings.port == 1
    assert load_settings({"config": other}, {"JOBLEDGER_CONFIG": str(one)}).settings.port == 2
    assert "JOBLEDGER_CONFIG" in rejection(env={"JOBLEDGER_CONFIG": str(tmp_path / "none.toml")})


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", "\x00"])
def test_file_that_is_not_toml_is_rejected(home: Path, text: str) -> None:
    """The message names the file."""
    path = write_config(home, text)
    assert str(path) in rejection()


def test_file_in_another_encoding_or_of_huge_size_is_rejected(home: Path) -> None:
    """Neither is parsed."""
    path = write_config(home, "")
    path.write_bytes(b"host = '\xff'\n")
    assert "not valid TOML" in rejection()
    path.write_bytes(b"#" * 2_000_000)
    assert "bytes" in rejection()


def test_unknown_setting_is_rejected_from_every_source(home: Path) -> None:
    """With its name, its origin, and the most similar setting; all at once."""
    path = write_config(home, "prot = 1\n[server]\nport = 1\n")
    message = rejection({"hots": "x"}, {"JOBLEDGER_PRT": "1", "JOBLEDGER_HOST": ""})
    assert f"unknown setting prot ({path}); did you mean port?" in message
    assert f"unknown setting server ({path})" in message
    assert "unknown setting JOBLEDGER_PRT; did you mean JOBLEDGER_PORT?" in message
    assert "unknown setting hots (flag); did you mean host?" in message
    assert "JOBLEDGER_HOST" not in message, "an empty variable counts as not set"


def test_variables_set_by_kubernetes_are_explained() -> None:
    """For a service named jobledger, Kubernetes sets variables that look like settings."""
    message = rejection(env={"JOBLEDGER_PORT": "tcp://10.0.0.1:1234", "JOBLEDGER_SERVICE_HOST": "10.0.0.1"})
    assert message.count("enableServiceLinks") == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("port", "1.5"),
        ("host", ""),
        ("host", "a\nb"),
        ("drain_timeout_seconds", "0"),
        ("drain_timeout_seconds", "nan"),
        ("drain_timeout_seconds", "inf"),
        ("feeds_per_client", "0"),
        ("stream_replicas", "6"),
        ("url", "localhost:1234"),
        ("data_dir", "a\0b"),
    ],
)
def test_value_out_of_bounds_is_rejected(name: str, value: str) -> None:
    """The message names the setting, the value, the origin, and the valid values."""
    message = rejection({name: value})
    assert message.startswith(f"{name} (flag)")
    assert f"must be {SETTINGS[name].accepted}" in message


@pytest.mark.parametrize(
    "text", ["port = '1'", "port = true", "port = 1.0", "host = 1", "allowed_hosts = 'a'"]
)
def test_value_in_the_file_must_have_the_right_type(home: Path, text: str) -> None:
    """TOML has types, so nothing is converted."""
    path = write_config(home, text)
    assert str(path) in rejection()


def test_lists_are_read_as_lists_or_with_commas(home: Path) -> None:
    """From the file as a list; from repeated flags or with commas; from the environment with commas."""
    assert load_settings({"allowed_hosts": ("a, b", "c")}, {}).settings.allowed_hosts == ("a", "b", "c")
    assert load_settings({}, {"JOBLEDGER_ALLOWED_HOSTS": "a,b"}).settings.allowed_hosts == ("a", "b")
    write_config(home, 'allowed_hosts = ["x", "y"]\n')
    assert load_settings({"allowed_hosts": ()}, {}).settings.allowed_hosts == ("x", "y")


NATS = {"JOBLEDGER_NATS_URL": "nats://n:4222"}


@pytest.mark.parametrize(
    ("flags", "env", "named"),
    [
        ({"nats_user": "u"}, {**NATS, "JOBLEDGER_NATS_CREDS_FILE": "/c"}, ("nats_user", "nats_creds_file")),
        ({"nats_nkey_file": "/n", "nats_creds_file": "/c"}, NATS, ("nats_nkey_file", "nats_creds_file")),
        ({"nats_user": "u"}, NATS, ("nats_user", "nats_password")),
        ({"nats_password": "p"}, NATS, ("nats_password", "nats_user")),
        (
            {"nats_password": "p", "nats_password_file": "/p", "nats_user": "u"},
            NATS,
            ("nats_password", "nats_password_file"),
        ),
        ({"nats_url": "nats://u:p@n", "nats_creds_file": "/c"}, {}, ("nats_url", "nats_creds_file")),
        ({"nats_creds_file": "/c"}, {}, ("nats_creds_file", "nats_url")),
        ({"nats_tls_ca": "/c"}, {}, ("nats_tls_ca", "nats_url")),
        ({"stream_replicas": 3}, {}, ("stream_replicas", "nats_url")),
        ({"nats_tls_cert": "/c"}, NATS, ("nats_tls_cert", "nats_tls_key")),
        ({"tls_cert": "/c"}, {}, ("tls_cert", "tls_key")),
        ({"tls_key": "/c"}, {}, ("tls_key", "tls_cert")),
        ({"token": "t", "token_file": "/t"}, {}, ("token", "token_file")),
    ],
)
def test_contradicting_settings_are_rejected_with_both_names(
    flags: dict[str, object], env: dict[str, str], named: tuple[str, str]
) -> None:
    """And with their origins."""
    message = rejection(flags, env)
    line = next(line for line in message.splitlines() if all(f"{name} (" in line for name in named))
    for name in named:
        origin = "flag" if name in flags else SETTINGS[name].env if SETTINGS[name].env in env else "not set"
        assert f"{name} ({origin})" in line


def test_token_setting_with_higher_precedence_is_used(home: Path) -> None:
    """A token in the environment overrides a token file in the TOML file."""
    write_config(home, 'token_file = "t"\n')
    loaded = load_settings({}, {"JOBLEDGER_TOKEN": "abc"})
    assert (loaded.settings.token, loaded.settings.token_file) == ("abc", None)
    assert loaded.origins["token_file"] == "default"


def test_no_secret_is_shown() -> None:
    """By `config show`, by the text of the settings, or by an error."""
    flags = ["--nats-user", "u", "--nats-url", "nats://n", "--url", "https://u:hush-3@service"]
    env = {"JOBLEDGER_TOKEN": "hush-1", "JOBLEDGER_NATS_PASSWORD": "hush-2"}
    done = CliRunner().invoke(config, ["show", *flags], env=env)
    as_json = CliRunner().invoke(config, ["show", "-o", "json", *flags], env=env)
    settings = Settings(token="hush-4", nats_url="nats://u:hush-5@n", nats_password="hush-6")
    assert done.exit_code == as_json.exit_code == 0
    assert "hush" not in done.output + as_json.output + repr(settings)
    assert "hush" not in repr(LoadedSettings(settings, {}))
    assert "hush" not in rejection({"token": "hush\n"})


@pytest.mark.parametrize("flag", ["--token", "--nats-password"])
def test_no_secret_has_a_flag(flag: str) -> None:
    """Every process on the machine can read a command line."""
    assert CliRunner().invoke(config, ["show", flag, "x"]).exit_code == 2


def test_config_show_shows_each_value_and_its_origin(home: Path) -> None:
    """One line per setting; JSON has the same data."""
    path = write_config(home, "port = 8080\n")
    arguments = ["show", "--host", "::1"]
    done = CliRunner().invoke(config, arguments, env={"JOBLEDGER_NAMESPACE": "prod"})
    rows = {line.split()[0]: line.split()[1:] for line in done.output.splitlines()}
    assert list(rows) == list(SETTINGS)
    assert rows["host"] == ["::1", "flag"]
    assert rows["port"] == ["8080", str(path)]
    assert rows["namespace"] == ["prod", "JOBLEDGER_NAMESPACE"]
    assert rows["url"] == ["http://127.0.0.1:1234", "default"]
    done = CliRunner().invoke(config, [*arguments, "-o", "json"], env={"JOBLEDGER_NAMESPACE": "prod"})
    message = {each["name"]: each for each in msgspec.json.decode(done.output)}
    assert message["port"]["value"] == 8080
    assert message["port"]["origin"] == str(path)


def test_every_setting_is_described() -> None:
    """With its section, meaning and valid values."""
    for setting in SETTINGS.values():
        assert setting.section in {"server", "client"}
        assert setting.description
        assert "\n" not in setting.description
        assert setting.accepted


def test_importing_the_settings_is_fast() -> None:
    """The command line imports them at every start, and nothing else of the service with them."""
    heavy = "{'nats', 'granian', 'rich', 'aiosqlite', 'asyncio', 'httpx', 'tomllib'}"
    code = f"import sys, jobledger.service.settings; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Settings: the order of their sources, where each came from, and what is refused."""

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
    """XDG directories of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "config" / "jobledger").mkdir(parents=True)
    return tmp_path


def write_config(home: Path, text: str) -> Path:
    """The TOML file in its default place."""
    path = home / "config" / "jobledger" / "config.toml"
    path.write_text(text)
    return path


def refused(flags: dict[str, object] | None = None, env: dict[str, str] | None = None) -> str:
    """Why these settings are refused."""
    with pytest.raises(InvalidSettings) as caught:
        load_settings(flags or {}, env or {})
    return str(caught.value)


def test_without_any_setting_there_are_defaults(home: Path) -> None:
    """Nobody has to set anything, and every origin says so."""
    loaded = load_settings({}, {})
    assert (loaded.settings.host, loaded.settings.port) == ("127.0.0.1", 1234)
    assert loaded.settings.data_dir == home / "state" / "jobledger"
    assert loaded.settings.tokens_file == home / "state" / "jobledger" / "tokens.json"
    assert set(loaded.origins) == set(SETTINGS)
    assert set(loaded.origins.values()) == {"default"}


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(home: Path) -> None:
    """Each source is message as the origin of what came from it."""
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


def test_the_tokens_are_in_the_data_directory_unless_said_otherwise(tmp_path: Path) -> None:
    """Who moves the data moves the tokens; who names the file has it where it is named."""
    assert load_settings({"data_dir": str(tmp_path)}, {}).settings.tokens_file == tmp_path / "tokens.json"
    named = load_settings({"data_dir": str(tmp_path), "tokens_file": "/t.json"}, {}).settings.tokens_file
    assert named == Path("/t.json")


def test_a_path_in_the_file_is_relative_to_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file means does not depend on where the command runs; a flag's path does."""
    path = write_config(home, 'tls_ca = "ca.pem"\ntoken_file = "~/token"\n')
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(home)
    settings = load_settings({"data_dir": "data"}, {}).settings
    assert settings.tls_ca == path.parent / "ca.pem"
    assert settings.token_file == Path("/home/someone/token")
    assert settings.data_dir == home / "data"


def test_the_file_can_be_named_by_flag_or_environment(tmp_path: Path) -> None:
    """`--config` wins over JOBLEDGER_CONFIG; a named file must be there."""
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text("port = 1\n")
    other.write_text("port = 2\n")
    assert load_settings({}, {"JOBLEDGER_CONFIG": str(one)}).settings.port == 1
    assert load_settings({"config": other}, {"JOBLEDGER_CONFIG": str(one)}).settings.port == 2
    assert "JOBLEDGER_CONFIG" in refused(env={"JOBLEDGER_CONFIG": str(tmp_path / "none.toml")})


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", "\x00"])
def test_a_file_that_is_no_toml_is_refused(home: Path, text: str) -> None:
    """The message names the file."""
    path = write_config(home, text)
    assert str(path) in refused()


def test_a_file_in_another_encoding_or_without_end_is_refused(home: Path) -> None:
    """Neither bytes that are no text nor a huge file get further."""
    path = write_config(home, "")
    path.write_bytes(b"host = '\xff'\n")
    assert "no TOML" in refused()
    path.write_bytes(b"#" * 2_000_000)
    assert "bytes" in refused()


def test_an_unknown_setting_is_refused_wherever_it_is(home: Path) -> None:
    """With its name, where it was said, and the nearest that exists; all at once."""
    path = write_config(home, "prot = 1\n[server]\nport = 1\n")
    message = refused({"hots": "x"}, {"JOBLEDGER_PRT": "1", "JOBLEDGER_HOST": ""})
    assert f"unknown setting prot ({path}); did you mean port?" in message
    assert f"unknown setting server ({path})" in message
    assert "unknown setting JOBLEDGER_PRT; did you mean JOBLEDGER_PORT?" in message
    assert "unknown setting hots (flag); did you mean host?" in message
    assert "JOBLEDGER_HOST" not in message, "an empty variable counts as not set"


def test_variables_that_kubernetes_puts_there_are_explained() -> None:
    """A service named jobledger makes variables that are no settings, and one named like a setting."""
    message = refused(env={"JOBLEDGER_PORT": "tcp://10.0.0.1:1234", "JOBLEDGER_SERVICE_HOST": "10.0.0.1"})
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
def test_a_value_that_is_out_of_bounds_is_refused(name: str, value: str) -> None:
    """The message names the setting, the value, the origin, and what is wanted."""
    message = refused({name: value})
    assert message.startswith(f"{name} (flag)")
    assert f"must be {SETTINGS[name].wanted}" in message


@pytest.mark.parametrize(
    "text", ["port = '1'", "port = true", "port = 1.0", "host = 1", "allowed_hosts = 'a'"]
)
def test_the_file_must_have_the_right_type(home: Path, text: str) -> None:
    """TOML has types, so nothing is guessed."""
    path = write_config(home, text)
    assert str(path) in refused()


def test_lists_are_taken_as_lists_or_with_commas(home: Path) -> None:
    """From the file as a list; from flags repeated or with commas; from the environment with commas."""
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
def test_settings_that_contradict_each_other_are_refused_with_both_names(
    flags: dict[str, object], env: dict[str, str], named: tuple[str, str]
) -> None:
    """And with where each came from."""
    message = refused(flags, env)
    line = next(line for line in message.splitlines() if all(f"{name} (" in line for name in named))
    for name in named:
        origin = "flag" if name in flags else SETTINGS[name].env if SETTINGS[name].env in env else "not set"
        assert f"{name} ({origin})" in line


def test_of_two_ways_to_give_a_token_the_stronger_source_counts(home: Path) -> None:
    """A token in the environment is used although the file names one; the weaker one is as if not set."""
    write_config(home, 'token_file = "t"\n')
    loaded = load_settings({}, {"JOBLEDGER_TOKEN": "abc"})
    assert (loaded.settings.token, loaded.settings.token_file) == ("abc", None)
    assert loaded.origins["token_file"] == "default"


def test_no_secret_is_shown() -> None:
    """Neither by `config show`, nor by the settings' own text, nor in an error."""
    flags = ["--nats-user", "u", "--nats-url", "nats://n", "--url", "https://u:hush-3@service"]
    env = {"JOBLEDGER_TOKEN": "hush-1", "JOBLEDGER_NATS_PASSWORD": "hush-2"}
    done = CliRunner().invoke(config, ["show", *flags], env=env)
    as_json = CliRunner().invoke(config, ["show", "-o", "json", *flags], env=env)
    settings = Settings(token="hush-4", nats_url="nats://u:hush-5@n", nats_password="hush-6")
    assert done.exit_code == as_json.exit_code == 0
    assert "hush" not in done.output + as_json.output + repr(settings)
    assert "hush" not in repr(LoadedSettings(settings, {}))
    assert "hush" not in refused({"token": "hush\n"})


@pytest.mark.parametrize("flag", ["--token", "--nats-password"])
def test_no_secret_stands_on_a_command_line(flag: str) -> None:
    """Every process of the machine could read it there: file and environment are the ways."""
    assert CliRunner().invoke(config, ["show", flag, "x"]).exit_code == 2


def test_config_show_tells_each_value_and_where_it_came_from(home: Path) -> None:
    """One line for each setting; JSON tells the same."""
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


def test_every_setting_is_told() -> None:
    """The table says of each what it is, whom it concerns and what it may be."""
    for setting in SETTINGS.values():
        assert setting.section in {"server", "client"}
        assert setting.description
        assert "\n" not in setting.description
        assert setting.wanted


def test_the_settings_are_light() -> None:
    """The command line imports them at every start: nothing of the service comes with them."""
    heavy = "{'nats', 'granian', 'rich', 'aiosqlite', 'asyncio', 'httpx', 'tomllib'}"
    code = f"import sys, jobledger.service.settings; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

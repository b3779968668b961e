"""The docs match the code: generated pages are current, examples run, documented names exist."""

import asyncio
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import jobledger
from docs.generate import PAGES
from jobledger.service.cli.main import cli
from jobledger.service.cli.options import SharedOption

ROOT = Path(__file__).parents[2]
FOLDERS = ("store", "projections", "service")  # `Path.rglob` does not follow the links of `jobledger/`
PAGES_WITH_PATHS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_fresh(name: str) -> None:
    """The page in the repository equals the output of the generator (`make docs` updates it)."""
    assert (ROOT / "docs" / name).read_text() == PAGES[name]()


def test_the_code_of_the_library_page_runs(tmp_path: Path) -> None:
    """The Python blocks of LIBRARY.md, in order, are one program that succeeds."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "LIBRARY.md").read_text(), re.DOTALL)
    program = tmp_path / "library.py"
    program.write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "has revision 3 but expected 2" in done.stdout


PUBLIC_NAMES = (
    "AmbiguousId Checkpoint Contention EmbeddedServer EmbeddedServerError HistoryItem InvalidInput "
    "InvalidSpec JetStreamLog Job JobExists JobNotFound JobNotQuarantined JobNotRerunnable JobQuarantined "
    "JobSpec JobStatus JobTerminal JobVersion JobledgerError Ledger ListQuery LogBroken LogBusy "
    "LogDamaged LogMissing LogNotPermitted LogRefused LogReplaced LogTruncated LogUnavailable LogUnfit "
    "MemoryLog Order "
    "OutcomeUnknown Page ParkedJob Projector ProjectorState Quarantine Receipt RevisionMismatch "
    "SpecConfig State StateType StoreDamaged StreamSettings SubscribedEvent Subscription SubscriptionDeleted "
    "SubscriptionInfo SubscriptionNotFound SubscriptionState SubscriptionStatus Subscriptions Task "
    "TooManyTags TreeReader TreeState TreeUnavailable VersionNotFound View ViewError ViewJobs WaitTimeout "
    "load_spec named_job_id parse_selector subscribe"
)


def commands() -> list[str]:
    """Return every command of the command line."""
    found: list[str] = []

    def walk(command: click.Command, words: list[str]) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                walk(child, [*words, name])
        else:
            found.append(" ".join(words))

    walk(cli, ["jobledger"])
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    """CLI.md has a section for the command that names each option."""
    page = (ROOT / "docs" / "CLI.md").read_text()
    _, heading, section = page.partition(f"## `{command}")
    assert heading, f"docs/CLI.md has no section for {command}"
    section = section.partition("\n## ")[0]
    shared = page.partition("## Options of the commands that talk to a service")[2].partition("\n## ")[0]
    target: click.Command = cli
    for word in command.split()[1:]:
        assert isinstance(target, click.Group)
        child = target.get_command(click.Context(target), word)
        assert child is not None
        target = child
    for parameter in target.params:
        if isinstance(parameter, click.Option):
            where = shared if isinstance(parameter, SharedOption) else section
            assert any(name in where for name in parameter.opts), (
                f"{command}: {parameter.opts} is not documented"
            )


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "CLI.md"], ids=lambda page: page.name)
def test_documented_console_output_is_what_the_command_prints(page: Path) -> None:
    """Each console example, run in the repository, prints the documented lines."""
    examples = re.findall(r"```console\n\$ (?:\.venv/bin/)?jobledger (.*)\n((?:.*\n)*?)```", page.read_text())
    assert examples
    for words, shown in examples:
        command = [sys.executable, "-m", "jobledger.service.cli.main", *words.split()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
        assert done.stdout == shown


def test_tests_that_the_code_names_exist() -> None:
    """Every test named in a comment or docstring exists."""
    for source in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for path in re.findall(r"`(tests/[\w/.]+\w)`", source.read_text()):
            assert (ROOT / path).exists(), f"{source.name} names {path}"


@pytest.mark.parametrize("page", PAGES_WITH_PATHS, ids=lambda page: page.name)
def test_paths_and_targets_that_a_page_names_exist(page: Path) -> None:
    """Files in backquotes or links, and `make` targets, exist."""
    text = page.read_text()
    folders = "|".join((*FOLDERS, "jobledger", "tests", "docs", "benchmarks", "deploy", "examples"))
    named = re.findall(rf"`((?:{folders})/[\w./-]+\.\w+)`", text)
    for path in named:
        places = [ROOT / path, ROOT / "jobledger" / path]
        assert any(place.exists() for place in places), f"{page.name} names {path}"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), f"{page.name} links {link}"
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name} names make {target}"


def test_every_public_name_exists_and_the_list_is_pinned() -> None:
    """`jobledger.__all__` is pinned, so that a change of the public names is deliberate."""
    assert sorted(jobledger.__all__) == jobledger.__all__
    for name in jobledger.__all__:
        assert getattr(jobledger, name).__doc__, name
    assert " ".join(jobledger.__all__) == PUBLIC_NAMES
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = jobledger.nothing  # type: ignore[attr-defined]


def test_no_page_or_file_names_a_package_index() -> None:
    """The lock file and the docs name no index host."""
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    assert "://" not in lock
    assert "index-url" not in lock


async def test_importing_the_package_loads_no_heavy_module() -> None:
    """Importing `jobledger` alone imports neither the client library nor SQLite's."""
    code = "import sys, jobledger; print(sorted({'nats', 'aiosqlite', 'yaml'} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert output.strip() == b"[]"


def test_the_readme_has_absolute_links() -> None:
    """Links and the picture are absolute, and those into this repository exist."""
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    assert len(links) > 10
    for link in links:
        assert link.startswith(("https://", "#")), link
        place = re.fullmatch(
            r"https://(?:raw\.githubusercontent|github)\.com/jobledger/jobledger/(?:blob/|tree/)?main/(.+)",
            link,
        )
        assert place is None or (ROOT / place[1].partition("#")[0]).exists(), link


def test_the_package_metadata_links_the_project() -> None:
    """Documentation, changes, issues, and how to report a vulnerability."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert {"Homepage", "Documentation", "Changelog", "Issues", "Security"} <= urls.keys()
    policy = (ROOT / "SECURITY.md").read_text()
    assert "Report a vulnerability" in policy
    assert "/security/advisories/new" in policy

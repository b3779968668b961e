"""Clients generated from `/openapi.json` compile and work, and independent validators accept the document."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobledger.service.api import openapi
from jobledger.service.api.app import OPERATIONS
from tests.clients.environments import HERE, python_of
from tests.clients.golang import copied, go
from tests.clients.nodejs import ENV, NODE, install
from tests.support.service_process import clean_env, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a fresh machine installs the generators first
TOOL_TIMEOUT_SECONDS = 180  # each takes a few seconds of CPU time
TYPESCRIPT = {
    "compilerOptions": {
        "target": "es2022",
        "module": "es2022",
        "moduleResolution": "bundler",
        "strict": True,
        "noEmit": True,
        "lib": ["es2022", "dom"],
        "types": [],
    },
    "include": ["client/**/*.ts"],
}


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a program printed; it must succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=TOOL_TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document in a file, as the service sends it."""
    file = tmp_path_factory.mktemp("document") / "openapi.json"
    file.write_bytes(openapi.document_bytes(OPERATIONS))
    return file


@pytest.fixture(scope="module")
def node_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs of `node/package.json`."""
    folder = tmp_path_factory.mktemp("node")
    install(HERE / "node", folder)
    return folder


@pytest.fixture(scope="module")
def generator_python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of the environment with OpenAPI Generator."""
    if shutil.which("java") is None:
        pytest.skip("OpenAPI Generator needs Java, which is not installed")
    try:
        return python_of("openapi-generator.txt", Path(request.config.cache.mkdir("environments")))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"OpenAPI Generator can't be installed: {error}")


def generate(python: Path, generator: str, document: Path, to: Path, options: Sequence[str] = ()) -> Path:
    """A client made by OpenAPI Generator, in a folder of its own."""
    program = python.parent / "openapi-generator-cli"
    words = ("generate", "-i", document, "-g", generator, "-o", to)
    run(
        program,
        *words,
        *options,
        cwd=document.parent,
        env={**os.environ, "JAVA_OPTS": "-XX:TieredStopAtLevel=1"},
    )
    return to


@pytest.mark.parametrize(
    "words",
    [
        ("@redocly/cli/bin/cli.js", "lint", "--extends", "spec"),
        ("@seriousme/openapi-schema-validator/bin/validate-api-cli.js",),
    ],
    ids=lambda words: words[0].partition("/")[0],
)
def test_a_validator_accepts_the_document(document: Path, node_tools: Path, words: Sequence[str]) -> None:
    """The third one, openapi-spec-validator, is in the fast suite (tests/service/api/test_openapi.py)."""
    program, *arguments = words
    env = {**ENV, "REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    run(NODE, node_tools / "node_modules" / program, *arguments, document, cwd=node_tools, env=env)


@pytest.mark.parametrize(
    "words",
    [
        ("oapi-codegen", "-generate", "types,client", "-package", "client", "-o", "client/client.go"),
        ("ogen", "--target", "client", "--package", "client", "--clean"),
    ],
    ids=lambda words: words[0],
)
def test_go_generators_make_clients_that_compile(
    document: Path, tmp_path: Path, words: Sequence[str]
) -> None:
    """oapi-codegen and ogen fail on constructs that they do not support."""
    module = copied("generators", tmp_path)
    (module / "client").mkdir()
    go("tool", *words, str(document), cwd=module)
    go("build", "./...", cwd=module)


def test_openapi_generator_makes_a_go_client_that_compiles(
    document: Path, generator_python: Path, tmp_path: Path
) -> None:
    """It needs only the standard library."""
    client = generate(generator_python, "go", document, tmp_path / "client")
    go("build", "./...", cwd=client)


@pytest.mark.parametrize("generator", ["typescript", "typescript-fetch"])
def test_openapi_generator_makes_typescript_that_compiles(
    document: Path, generator_python: Path, node_tools: Path, generator: str
) -> None:
    """With every strict check of the compiler."""
    shutil.rmtree(node_tools / "client", ignore_errors=True)
    generate(generator_python, generator, document, node_tools / "client")
    (node_tools / "tsconfig.json").write_text(json.dumps(TYPESCRIPT))
    run(NODE, node_tools / "node_modules" / "typescript" / "bin" / "tsc", "-p", ".", cwd=node_tools, env=ENV)


def test_a_generated_python_client_reads_the_responses(
    document: Path, generator_python: Path, tmp_path: Path
) -> None:
    """Its classes reject a value of another type, a missing field and a number out of range."""
    options = ("--additional-properties=packageName=jobledger_client",)
    client = generate(generator_python, "python", document, tmp_path / "client", options)
    with running_service(tmp_path / "service") as service:
        env = clean_env(tmp_path, {"PYTHONPATH": str(client), "JOBLEDGER_TEST_URL": service.url})
        seen = json.loads(run(generator_python, HERE / "generated_session.py", cwd=tmp_path, env=env))
    assert seen == {
        "put": [1, 1],
        "get": ["generated", "Pending"],
        "list": ["generated"],
        "state": 2,
        "history": ["Submission", "Running: on node-1"],
        "versions": [1],
        "rerun": 2,
        "stop": 4,
        "missing": [404, "NotFound", 404],
    }

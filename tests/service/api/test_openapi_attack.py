"""Schemathesis, in its own environment, finds no violation of the OpenAPI document."""

import subprocess
from pathlib import Path

import pytest

from tests.clients.environments import HERE, python_of
from tests.support.service_process import clean_env, running_service

ATTACK_TIMEOUT_SECONDS = 600
EXAMPLES = 15  # for each operation and phase; some 2,000 requests in all


@pytest.mark.slow
@pytest.mark.timeout(1_200)  # a fresh machine installs it first
def test_schemathesis_finds_no_server_error_and_no_broken_answer(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Generated requests, valid and invalid, alone and in sequences: no 500, every answer as documented."""
    python = python_of("schemathesis.txt", Path(request.config.cache.mkdir("environments")))
    with running_service(tmp_path) as service:
        done = subprocess.run(
            [
                *(str(python), "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
                *("run", f"{service.url}/openapi.json", "--max-examples", str(EXAMPLES), "--seed", "1"),
                *("--workers", "1", "--request-timeout", "10", "--no-color"),
            ],
            capture_output=True,
            text=True,
            timeout=ATTACK_TIMEOUT_SECONDS,
            check=False,
            cwd=tmp_path,  # it keeps notes where it runs
            env=clean_env(tmp_path),
        )
        assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
        assert "No issues found" in done.stdout or "passed" in done.stdout, done.stdout
        assert service.process.poll() is None

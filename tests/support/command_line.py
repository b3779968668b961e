"""The command line, called in the test's process."""

import io
import json
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from jobledger.service.cli.main import main
from tests.support.service_process import RunningService, clean_env


def typed(home: Path, *words: str, url: str, stdin: str = "") -> CompletedProcess[str]:
    """Run `jobledger` in this process: the whole `main`, without the start of an interpreter."""
    streams = [io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8") for text in (stdin, "", "")]
    env = clean_env(home, {"JOBLEDGER_URL": url})
    with (
        patch.dict(os.environ, env, clear=True),
        patch.multiple(
            sys, argv=["jobledger", *words], stdin=streams[0], stdout=streams[1], stderr=streams[2]
        ),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    written = []
    for stream in streams[1:]:
        stream.flush()
        stream.seek(0)
        written.append(stream.read())
    assert isinstance(ended.value.code, int)
    return CompletedProcess(words, ended.value.code, *written)


class Operator:
    """Runs commands."""

    def __init__(self, service: RunningService, home: Path) -> None:
        self.url = service.url
        self.home = home

    def __call__(self, *words: str, code: int = 0, stdin: str = "") -> CompletedProcess[str]:
        done = typed(self.home, *words, url=self.url, stdin=stdin)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-o", "json").stdout)

    def spec(self, name: str, **fields: Any) -> str:
        """Write a spec file; returns its path."""
        job = {"Name": name, "Type": "batch", "Tasks": [{"Name": "main", "Engine": {"Type": "noop"}}]}
        path = self.home / f"{len(list(self.home.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**job, **fields}))
        return str(path)

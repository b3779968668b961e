"""Where the log of this machine's service is, for a program that names none.

    JOBLEDGER_NATS_URL is set ──► those servers, with JOBLEDGER_NATS_USER and JOBLEDGER_NATS_PASSWORD if set
    else ───────────────────────► the embedded server of the service that runs on JOBLEDGER_DATA_DIR, or on
                                  the default data directory

The embedded server has another port and password at every start, so they are never written into a program.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from jobledger.store.connection_file import find_connection
from jobledger.store.embedded import NATS_FOLDER, default_directory
from jobledger.store.model.errors import LogUnavailable

URL_VARIABLE: Final = "JOBLEDGER_NATS_URL"
DATA_DIR_VARIABLE: Final = "JOBLEDGER_DATA_DIR"
_CREDENTIALS: Final = {"user": "JOBLEDGER_NATS_USER", "password": "JOBLEDGER_NATS_PASSWORD"}


class LocalLog(NamedTuple):
    """How to reach the log.

    Attributes:
        url: of one NATS server, or of several with commas between them.
        options: `user` and `password`, if they are not part of the URL.
    """

    url: str
    options: dict[str, str]

    def __repr__(self) -> str:
        return "LocalLog(…)"  # a traceback with values must not show credentials


def find_local_log(env: Mapping[str, str] | None = None) -> LocalLog:
    """The log of this machine's service.

    Args:
        env: the environment; None: that of the process.

    Raises:
        LogUnavailable: if no server is named and no service with an embedded log is running.
        EmbeddedServerError: if the connection file is not trusted (see `find_connection`).
    """
    env = os.environ if env is None else env
    url = env.get(URL_VARIABLE, "")
    if url:
        return LocalLog(url, {name: env[key] for name, key in _CREDENTIALS.items() if env.get(key)})
    data_dir = env.get(DATA_DIR_VARIABLE, "")
    directory = Path(data_dir).expanduser() / NATS_FOLDER if data_dir else default_directory()
    found = find_connection(directory)
    if found is None:
        raise LogUnavailable(
            f"no NATS server was named, and no service with an embedded log is running on {directory.parent}:"
            f" start `jobledger serve`, set {DATA_DIR_VARIABLE} or {URL_VARIABLE}, or pass a URL"
        )
    return LocalLog(found, {})

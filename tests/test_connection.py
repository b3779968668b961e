"""The private names of nats-py that are overridden or used are still there."""

import inspect

import pytest
from nats.aio.client import Client


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_process_headers", ["self", "headers"]),
        ("_build_message", ["self", "sid", "subject", "reply", "data", "headers"]),
        ("_process_err", ["self", "err_msg"]),
        ("_process_op_err", ["self", "e"]),
        ("_process_connect_init", ["self"]),
        ("_connect_command", ["self"]),
        ("_send_command", ["self", "cmd", "priority"]),
        ("_flush_pending", ["self", "force_flush"]),
    ],
)
def test_a_method_of_the_client_that_we_build_on_is_there(name: str, parameters: list[str]) -> None:
    """With these parameters; a release of nats-py that changes one needs a look at `connection.py`."""
    assert list(inspect.signature(getattr(Client, name)).parameters) == parameters


def test_attributes_of_the_client_that_we_build_on_are_there() -> None:
    """They are made in its constructor or when it connects."""
    source = inspect.getsource(Client)
    for name in ("_resp_map", "_flush_queue", "_error_cb", "_transport", "_server_info"):
        assert f"self.{name}" in source

"""The command line takes what the flow takes, and does not wait for a Prefect server that is not well."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from flows import command_line
from flows.restore_host_config import restore_host_config
from flows.restore_website import restore_website


@pytest.fixture
def gateway_without_a_server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(502)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def test_a_gateway_that_has_no_server_behind_it_is_no_server(gateway_without_a_server: str) -> None:
    assert command_line._answers(gateway_without_a_server) is False


def test_nobody_listening_is_no_server() -> None:
    assert command_line._answers("http://127.0.0.1:9/api") is False


def test_the_options_are_the_flows_parameters() -> None:
    given = command_line._parser(restore_website).parse_args(["--mode", "in-place", "--approve"])

    assert vars(given) == {
        "snapshot": "latest", "target": "", "mode": "in-place", "approve": True, "restart_container": "gxcoin-app-green"
    }  # fmt: skip


def test_lists_take_several_words_and_what_is_required_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    given = command_line._parser(restore_host_config).parse_args(["--server", "vps3", "--only", "etc/a", "etc/b"])
    assert given.only == ["etc/a", "etc/b"]

    with pytest.raises(SystemExit):
        command_line._parser(restore_host_config).parse_args([])
    assert "--server" in capsys.readouterr().err

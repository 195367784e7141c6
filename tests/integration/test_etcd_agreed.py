"""An etcd that is cut off from the others, or behind them, saves what it has: kept, and told that it may be old."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.k3s_hosts import K3sHost, host, play, read


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[K3sHost]]:
    with ExitStack() as stack:
        first = K3sHost(tmp_path / "vps3", "vps3")
        made = [first, *(K3sHost(tmp_path / name, name, joins=first) for name in ("vps4", "vps5"))]
        for server in made:
            stack.callback(server.stop)
            server.start()
        first.seed()
        play(first, tmp_path, monkeypatch)
        yield made


def test_a_server_that_the_others_do_not_answer_is_no_good_copy(servers: list[K3sHost]) -> None:
    first, *others = servers
    source = first.source()
    database, _ = source.collect(host(), "etcd-snapshots")
    assert read(source, database)[1].shortfalls == ()
    for other in others:
        other.stop()

    plain, ending = read(source, database)

    (said,) = ending.shortfalls
    assert said.startswith("the cluster's servers do not say that they agree: what this server holds may be old: ")
    assert plain


def test_a_server_that_is_behind_the_others_is_no_good_copy(servers: list[K3sHost]) -> None:
    source = servers[0].source()
    database, _ = source.collect(host(), "etcd-snapshots")
    servers[0].fault("behind")

    _, ending = read(source, database)

    (said,) = ending.shortfalls
    revision = int(str(ending.evidence["revision"]))
    told = f"expected revision {revision + 1} or later, as its servers agree on, seen {revision}"
    assert said == f"{told}: what this server holds may be old"

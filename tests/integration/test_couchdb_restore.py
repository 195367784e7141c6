"""CouchDB's documents put back over what is there, and restores that fail or are killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gxbackup.couchdb import loading, restore
from gxbackup.couchdb.client import Answer, CouchClient, path_of
from gxbackup.errors import RestoreError, RestoreRefusedError
from gxbackup.sources.base import Work
from gxbackup.sources.couchdb import CouchDB
from tests.integration.couchdb_dumps import HOST, Killed, put, revision, source, taken, url_of, with_state, work
from tests.integration.couchdb_servers import GoldenCouch

pytestmark = pytest.mark.usefixtures("programs")


def test_documents_replace_the_state_and_a_copy_of_it_stays(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    given = work(tmp_path / "area", *taken(couch), method="documents", peer_height=77)
    with_state(couch, target)
    kind = source(target)

    kind.preview(HOST, given)
    done = kind.apply(HOST, given)

    assert done[0] == "6 databases with 89 revisions equal what was captured"
    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 76
    assert target.get(path_of("explorer", "mine"))["_rev"] == "1-aa"
    [kept] = given.safety_dir.iterdir()
    assert str(kept) in done[-1]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert b'"BlockNum":90' in kept.read_bytes()


def test_a_restore_of_documents_that_fails_puts_back_what_was_there(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    capture, dump, end = taken(couch)
    broken = dump.replace(b'"_id":"bin1"', b'"_id":"_bad"')
    given = work(tmp_path / "area", capture, broken, end, method="documents", peer_height=77)
    with_state(couch, target)

    with pytest.raises(RestoreError, match="restore failed, and what was there is back"):
        source(target).apply(HOST, given)

    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 90
    assert target.get(path_of("gxchannel_gx"))["doc_count"] == 74
    assert list(given.safety_dir.iterdir()) == []


NOTES: dict[str, Any] = {"method": "documents", "databases": ["notes"]}


def test_design_documents_are_sent_last_so_that_they_judge_nothing_that_is_put_back(
    target: CouchClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = "function (doc, old, user) { if (doc.author !== user.name) throw ({forbidden: 'not yours'}) }"
    put(target, "notes", *(revision(f"note{n}", "aa", author=f"user{n}") for n in range(3)))
    put(target, "notes", revision("_design/auth", "aa", validate_doc_update=function))
    capture, dump, end = taken(target)
    opening, *others, design = dump.splitlines(keepends=True)  # as where it was made before they were written
    given = work(tmp_path / "area", capture, b"".join([opening, design, *others]), end, **NOTES)
    sent: list[str] = []
    send = loading._Batch._send

    def noted(asked: loading._Batch) -> None:
        sent.extend(json.loads(document)["_id"] for document in asked._documents)
        send(asked)

    monkeypatch.setattr(loading._Batch, "_send", noted)

    source(target).apply(HOST, given)

    assert sorted(sent[:3]) == ["note0", "note1", "note2"]
    assert sent[3:] == ["_design/auth"]
    assert target.get(path_of("notes", "_design/auth"))["_rev"] == "1-aa"


def test_a_database_that_lets_everybody_in_does_so_again(
    target: CouchClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(target, "open", revision("mine", "aa"))
    given = work(tmp_path / "area", *taken(target), method="documents", databases=["open"])
    closed = {"admins": {"names": [], "roles": ["_admin"]}, "members": {"names": [], "roles": ["_admin"]}}
    request = CouchClient.request

    def as_couchdb_3(client: CouchClient, method: str, path: str, *rest: Any, **more: Any) -> Answer:
        answer = request(client, method, path, *rest, **more)
        if (method, path) == ("PUT", path_of("open")):  # its new databases are closed
            request(client, "PUT", path_of("open", "_security"), body=json.dumps(closed).encode())
        return answer

    monkeypatch.setattr(CouchClient, "request", as_couchdb_3)

    source(target).apply(HOST, given)

    assert target.get(path_of("open", "_security")) == {}


@pytest.mark.parametrize("moment", ["copying", "loading"])
def test_a_restore_of_documents_that_was_killed_ends_well_when_it_is_run_again(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    given = work(tmp_path / "area", *taken(couch), method="documents", peer_height=77)
    with_state(couch, target)
    kind = source(target)
    request, sent = CouchClient.request, 0

    def killed(self: CouchClient, method: str, path: str, *rest: Any, **more: Any) -> Any:
        nonlocal sent
        sent += (moment == "copying" and "_bulk_get" in path) or (moment == "loading" and "_bulk_docs" in path)
        if sent >= 2:  # from the second on, also what would put back
            raise Killed
        return request(self, method, path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(CouchClient, "request", killed)
        with pytest.raises(Killed):
            kind.apply(HOST, given)
    done = kind.apply(HOST, given)

    assert done[0] == "6 databases with 89 revisions equal what was captured"
    [kept] = [path for path in given.safety_dir.iterdir() if path.suffix == ".jsonl"]
    assert b'"BlockNum":90' in kept.read_bytes()
    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 76


def test_a_restore_that_was_killed_among_its_documents_goes_on_with_those_that_are_missing(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = work(tmp_path / "area", *taken(couch), method="documents", peer_height=77)
    with_state(couch, target)
    monkeypatch.setattr(loading, "DOCUMENTS_PER_REQUEST", 10)
    request = CouchClient.request
    sent: list[list[tuple[str, str]]] = []

    def told(self: CouchClient, method: str, path: str, *rest: Any, **more: Any) -> Any:
        if "_bulk_docs" in path and len(sent) == stop_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if "_bulk_docs" in path:
            sent.append([(path, one["_id"]) for one in json.loads(more["body"])["docs"]])
        return request(self, method, path, *rest, **more)

    monkeypatch.setattr(CouchClient, "request", told)
    stop_after = 6
    if (child := os.fork()) == 0:
        try:
            source(target).apply(HOST, given)
        finally:
            os._exit(0)  # never on into pytest
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    reached = {name: target.get(path_of(name))["doc_count"] for name in target.get("/_all_dbs") if "gxch" in name}

    stop_after = -1
    done = source(target).apply(HOST, given)

    assert 0 < reached["gxchannel_gx"] < 74
    again = [path for page in sent for path, _ in page]
    assert again.count("/gxchannel_gx/_bulk_docs") == 74 - reached["gxchannel_gx"]
    assert done[0] == "6 databases with 89 revisions equal what was captured"
    assert target.request("GET", path_of("gxchannel_gx", *loading.BEGUN), also=(404,)).status == 404


def test_what_a_killed_restore_of_another_snapshot_has_loaded_is_not_gone_on_with(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"method": "documents", "peer_height": 77}
    first = work(tmp_path / "first", *taken(couch), **options)
    couch.databases["gxchannel_gx"]["docs"].pop()
    second = work(tmp_path / "second", *taken(couch), **options)
    second = second.model_copy(update={"safety_dir": first.safety_dir})
    with_state(couch, target)
    cut(source(target), first, "compare", monkeypatch)
    loading.drop(target, "gxchannel_")  # so far it had come

    done = source(target).apply(HOST, second)

    assert done[0] == "6 databases with 88 revisions equal what was captured"


def cut(kind: CouchDB, given: Work, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a restore that ends, as killed, where this function of the restore is called."""

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(restore, name, killed)
        with pytest.raises(Killed):
            kind.apply(HOST, given)


def test_the_copy_of_a_killed_restore_of_other_databases_is_not_taken_for_these(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = taken(couch)
    options: dict[str, Any] = {"method": "documents", "peer_height": 77}
    some = work(tmp_path / "area", *state, **options, databases=["gxchannel_", "gxchannel_gx"])
    every = work(tmp_path / "area", *state, **options)
    with_state(couch, target)
    cut(source(target), some, "_load", monkeypatch)
    loading.drop(target, "gxchannel_")  # so far it had come
    before = target.get("/_all_dbs")

    with pytest.raises(RestoreRefusedError, match="seen gxchannel_, gxchannel_gx of http"):
        source(target).apply(HOST, every)
    elsewhere = source(target).model_copy(update={"url": url_of(target) + "/"})
    with pytest.raises(RestoreRefusedError, match="expected it to be of http"):
        elsewhere.apply(HOST, some)

    assert target.get("/_all_dbs") == before
    source(target).apply(HOST, some)
    source(target).apply(HOST, every)


def test_a_restore_that_was_killed_once_all_was_there_does_not_bring_its_old_copy_back(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, dump, end = taken(couch)
    options: dict[str, Any] = {"method": "documents", "peer_height": 77}
    with_state(couch, target)
    cut(source(target), work(tmp_path / "area", capture, dump, end, **options), "finish", monkeypatch)
    put(target, "gxchannel_gx", revision("since", "aa"))
    broken = dump.replace(b'"_id":"bin1"', b'"_id":"_bad"')
    given = work(tmp_path / "area", capture, broken, end, **options)

    with pytest.raises(RestoreError, match="restore failed, and what was there is back"):
        source(target).apply(HOST, given)

    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 76
    assert target.get(path_of("gxchannel_gx", "since"))["_rev"] == "1-aa"
    [kept] = given.safety_dir.iterdir()
    assert b'"BlockNum":90' in kept.read_bytes()


def test_a_dump_without_one_of_its_databases_is_refused_before_any_is_dropped(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    capture, dump, end = taken(couch)
    short = b"".join(line for line in dump.splitlines(True) if b'"database":"gxchannel_lscc"' not in line)
    given = work(tmp_path / "area", capture, short, end, method="documents", peer_height=77)
    with_state(couch, target)

    with pytest.raises(RestoreRefusedError, match="expected database gxchannel_lscc in it"):
        source(target).apply(HOST, given)

    assert target.get(path_of("gxchannel_", "statedb_savepoint"))["BlockNum"] == 90
    assert not given.safety_dir.exists()

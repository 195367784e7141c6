"""A rehearsal of CouchDB: what it finds, and the servers that it must not touch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gxbackup.couchdb import loading
from gxbackup.couchdb.client import CouchClient, path_of
from gxbackup.errors import IntegrityError, RestoreRefusedError
from gxbackup.scratch.couchdb import scratch_couchdb
from tests.integration.couchdb_dumps import HOST, put, revision, source, taken, url_of, work
from tests.integration.couchdb_servers import GoldenCouch

pytestmark = pytest.mark.usefixtures("programs")


def test_a_rehearsal_sees_a_lost_revision_and_a_changed_attachment(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient
) -> None:
    _, dump, end = taken(couch)
    lost = b"".join(line for line in dump.splitlines(True) if b'"_id":"bin1"' not in line)
    changed = dump.replace(b'"data":"djI="', b'"data":"djM="')

    for damaged, seen in ((lost, "doc_count: expected 74, seen 73"), (changed, "revisions_digest")):
        names = {name: name for name in loading.load(target, damaged.splitlines(True), lambda name: name)}
        with pytest.raises(IntegrityError, match=f"gxchannel_gx: {re.escape(seen)}"):
            loading.compare(target, end.evidence, names, "back")


def test_a_scratch_server_that_holds_databases_is_refused(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, dump, end = taken(couch)
    put(target, "in-use", revision("a", "aa"))
    monkeypatch.setenv("GX_SCRATCH_COUCHDB_URL", url_of(target))

    with pytest.raises(RestoreRefusedError, match="without databases, seen in-use"):
        source(couch).rehearse(HOST, work(tmp_path / "area", capture, dump, end))
    loading.drop(target, "in-use")
    source(couch).rehearse(HOST, work(tmp_path / "area2", capture, dump, end))

    assert [name for name in target.get("/_all_dbs") if not name.startswith("_")] == []


def test_a_rehearsal_drops_nothing_on_its_scratch_server_that_it_did_not_make(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, dump, end = taken(couch)
    monkeypatch.setenv("GX_SCRATCH_COUCHDB_URL", url_of(target))

    with scratch_couchdb(tmp_path, None) as scratch:
        put(target, "gxchannel_gx", revision("theirs", "aa"))
        with pytest.raises(RestoreRefusedError, match="expected no database gxchannel_gx yet"):
            loading.load(scratch.client, dump.splitlines(True), scratch.owned)

    assert [name for name in target.get("/_all_dbs") if not name.startswith("_")] == ["gxchannel_gx"]
    assert target.get(path_of("gxchannel_gx", "theirs"))["_rev"] == "1-aa"
    loading.drop(target, "gxchannel_gx")
    source(couch).rehearse(HOST, work(tmp_path / "area", capture, dump, end))


def test_the_protected_server_is_no_scratch_server_though_it_is_empty_and_spelled_otherwise(
    couch: GoldenCouch, tmp_path: Path, target: CouchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GX_SCRATCH_COUCHDB_URL", url_of(target).replace("127.0.0.1", "localhost") + "/")
    given = work(tmp_path / "area", *taken(couch))

    with pytest.raises(RestoreRefusedError, match="expected another server than the protected one"):
        source(target).rehearse(HOST, given)

    assert [name for name in target.get("/_all_dbs") if not name.startswith("_")] == []

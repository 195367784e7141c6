"""What is emptied is told as emptied, for every kind of source by what that kind counts."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from gxbackup import contents, health
from gxbackup.health import Condition
from gxbackup.sources import AnySource
from tests.unit.catalogs import SITE, Promised, Shelf, Taken, daily, day, inventory, named

EMPTIED = ("failing", "alert-BackupSizeAnomaly")


def counted(*evidence: dict[str, Any], kind: str = "directory", on_a_base: bool = False, **settings: str) -> Condition:
    """Look at copies of one size whose evidence is this, oldest first."""
    shelf = daily(Shelf(), 0, len(evidence) - 1, Taken(SITE, size_bytes=256 * 1024))
    for number, seen in enumerate(evidence):
        made = shelf.manifests[named(number)]
        base = {"base": named(0)} if on_a_base and number else {}
        artifact = made.artifacts[0].model_copy(update={"kind": kind, "evidence": seen, "settings": settings, **base})
        shelf.manifests[named(number)] = made.model_copy(update={"artifacts": (artifact,)})
    now = day(len(evidence) - 1)
    return health.conditions([shelf.catalog()], inventory(website=Promised()), {}, now)[0]


def said(condition: Condition) -> list[tuple[str, str]]:
    return [(finding.level, finding.runbook) for finding in condition.findings]


def couchdb(coins: int, heights: dict[str, int]) -> dict[str, Any]:
    """Tell of a peer's CouchDB: its own documents are there whatever became of the channel's."""
    own = {"_users": 1, "fabric__internal": 1, "mychannel_": 3, "mychannel__lifecycle": 5, "mychannel_lscc": 1}
    counts = {**own, "mychannel_coin": coins}
    return {"databases": {name: {"doc_count": count} for name, count in counts.items()}, "heights": heights}


@pytest.mark.parametrize(
    ("kind", "before", "after", "words"),
    [
        ("directory", {"bytes": 900, "files": 3}, {"bytes": 0, "files": 3}, "bytes in it, usually 900"),
        ("redis", {"keys": 7}, {"keys": 0}, "keys in it, usually 7"),
        ("postgres", {"tables": {"coins": 5, "owners": 2}}, {"tables": {"coins": 0}}, "rows in it, usually 7"),
        ("postgres", {"tables": {"coins": 5}}, {"tables": {}}, "rows in it, usually 5"),
        ("couchdb", couchdb(9, {"mychannel": 4}), couchdb(0, {"mychannel": 4}), "documents in it, usually 9"),
        ("etcd", {"objects": 60}, {"objects": 0}, "objects in it, usually 60"),
        ("ledger", {"heights": {"one": 4, "two": 3}}, {"heights": {}}, "blocks in it, usually 7"),
        ("chaincode", {"packages": ["coin:0a"]}, {"packages": []}, "packages in it, usually 1"),
        (
            "fabric_crypto", {"certificates": [{}, {}], "keys": 1, "bytes": 900},
            {"certificates": [], "keys": 0, "bytes": 700}, "certificates and keys in it, usually 3",
        ),
        (
            "docker_state", {"containers": 2, "images": 3, "networks": 3},
            {"containers": 0, "images": 0, "networks": 3}, "containers and images in it, usually 5",
        ),
    ],
)  # fmt: skip
def test_what_is_emptied_is_failing_however_small_it_was(
    kind: str, before: dict[str, Any], after: dict[str, Any], words: str
) -> None:
    condition = counted(before, before, before, after, kind=kind)

    assert said(condition) == [EMPTIED]
    assert condition.findings[0].message == f"it is empty: no {words}"
    assert said(counted(before, before, before, after, before, kind=kind)) == []


def test_a_cluster_whose_own_objects_alone_are_left_is_emptied() -> None:
    some, none = {"objects_total": 40}, {"objects_total": 0}

    assert said(counted(some, some, some, none, kind="kubernetes_objects", form="apply")) == [EMPTIED]
    assert said(counted(some, some, some, none, kind="kubernetes_objects", form="raw")) == []


def test_a_ledger_is_emptied_also_where_the_copy_builds_on_a_base_and_a_tree_is_then_just_unchanged() -> None:
    ledger, tree = {"heights": {"one": 4}}, {"bytes": 900}

    assert said(counted(*[ledger] * 4, {"heights": {}}, kind="ledger", on_a_base=True)) == [EMPTIED]
    assert said(counted(*[tree] * 4, {"bytes": 0}, on_a_base=True)) == []


def test_every_kind_of_source_says_what_it_counts() -> None:
    [(union, *_)] = [get_args(AnySource)]

    assert {source.model_fields["kind"].default for source in get_args(union)} == {*contents.KINDS}


def test_what_was_always_empty_or_counts_nothing_or_has_no_history_is_not_emptied() -> None:
    some, none = {"bytes": 900}, {"bytes": 0}

    assert said(counted(none, none, none, none)) == []
    assert said(counted(some, some, none)) == []
    assert said(counted(some, some, some, {})) == []
    assert said(counted({}, {}, {}, none, kind="of a later version")) == []

"""What a database holds, counted inside one snapshot; and the first thing that differs between two counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from gxbackup.model import Evidence
from gxbackup.postgres.server import Session

USERS = """n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend e
  WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')"""
RELATIONS = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
_NAME = "format('%I.%I', n.nspname, c.relname)"
# A partitioned table is the sum of its partitions; a materialized view is made anew by a restore.
_ROWS = f"""SELECT format('SELECT %L, count(*) FROM ONLY %I.%I', {_NAME}, n.nspname, c.relname)
  {RELATIONS} WHERE c.relkind = 'r' AND {USERS} ORDER BY 1 \\gexec"""  # noqa: S608 - of constants; the server quotes the names
_PARTITIONS = f"""SELECT {_NAME}, format('%I.%I', leaf_schema.nspname, leaf.relname)
  {RELATIONS} CROSS JOIN LATERAL pg_partition_tree(c.oid) t JOIN pg_class leaf ON leaf.oid = t.relid
  JOIN pg_namespace leaf_schema ON leaf_schema.oid = leaf.relnamespace
  WHERE c.relkind = 'p' AND leaf.relkind = 'r' AND {USERS} ORDER BY 1, 2;"""
_LOCKED = f"""SELECT {_NAME} {RELATIONS} WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
  AND n.nspname <> 'information_schema' ORDER BY 1;"""
# New tables between the list and the snapshot make another list; where they never end, pg_dump locks the last of them.
_LISTS = 3
_SEQUENCES = f"""SELECT format('SELECT %L, CASE WHEN is_called THEN last_value::numeric + %s ELSE last_value END, %s, %L
  FROM %I.%I', {_NAME}, seqincrement, seqincrement, seqcycle, n.nspname, c.relname)
  {RELATIONS} JOIN pg_sequence ON seqrelid = c.oid WHERE {USERS} ORDER BY 1 \\gexec"""  # noqa: S608 - as above
_LARGE_OBJECTS = """SELECT (SELECT count(*) FROM pg_largeobject_metadata),
  (SELECT coalesce(sum(length(data)), 0) FROM pg_largeobject);"""
_OWN = """n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend e
  WHERE e.classid = o.tableoid AND e.objid = o.oid AND e.deptype = 'e')"""
# What pg_dump passes over is not counted: an index that was never finished, the functions that come with a range type,
# and a partition's copy of its parent's trigger (told by a column that PostgreSQL 12 has not).
_OBJECTS = f"""SELECT CASE c.relkind WHEN 'v' THEN 'views' WHEN 'm' THEN 'materialized_views' WHEN 'i' THEN 'indexes'
    WHEN 'I' THEN 'partitioned_indexes' WHEN 'p' THEN 'partitioned_tables' ELSE 'foreign_tables' END, count(*)
  {RELATIONS} LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class indexed ON indexed.oid = i.indrelid
  WHERE c.relkind IN ('v', 'm', 'i', 'I', 'p', 'f') AND {USERS}
  AND (i.indexrelid IS NULL OR ((i.indisvalid OR indexed.relkind = 'p') AND i.indisready)) GROUP BY 1
UNION ALL SELECT 'functions', count(*) FROM pg_proc o JOIN pg_namespace n ON n.oid = pronamespace WHERE {_OWN}
  AND NOT EXISTS (SELECT FROM pg_depend p
    WHERE p.classid = 'pg_proc'::regclass AND p.objid = o.oid AND p.deptype = 'i')
UNION ALL SELECT 'types', count(*) FROM pg_type o JOIN pg_namespace n ON n.oid = typnamespace
  WHERE typtype IN ('e', 'd', 'r') AND {_OWN}
UNION ALL SELECT 'constraints', count(*) FROM pg_constraint o JOIN pg_namespace n ON n.oid = connamespace
  WHERE contype IN ('c', 'f', 'p', 'u', 'x') AND {_OWN}
UNION ALL SELECT 'triggers', count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE NOT tgisinternal AND coalesce(to_jsonb(t) ->> 'tgparentid', '0') = '0' AND {USERS}
UNION ALL SELECT 'policies', count(*) FROM pg_policy JOIN pg_class c ON c.oid = polrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {USERS}
UNION ALL SELECT 'schemas', count(*) FROM pg_namespace n WHERE nspname !~ '^pg_'
  AND nspname NOT IN ('information_schema', 'public');"""  # noqa: S608 - as above
_ROLES = """SELECT rolname, concat_ws(' ', CASE WHEN rolsuper THEN 'superuser' END,
    CASE WHEN rolcanlogin THEN 'login' END, CASE WHEN rolcreaterole THEN 'createrole' END,
    CASE WHEN rolcreatedb THEN 'createdb' END, CASE WHEN rolreplication THEN 'replication' END,
    CASE WHEN rolbypassrls THEN 'bypassrls' END)
  FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY rolname;"""
_DATABASE = """SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), pg_database_size(oid)
  FROM pg_database WHERE datname = current_database();"""
# What lies in folders of its own: a disk that the server's own folder need not be on.
_TABLESPACES = """SELECT spcname, coalesce(sum(pg_relation_size(c.oid)), 0) FROM pg_class c
  JOIN pg_database ON datname = current_database()
  JOIN pg_tablespace s ON s.oid = CASE reltablespace WHEN 0 THEN dattablespace ELSE reltablespace END
  WHERE relkind IN ('r', 'i', 't', 'm', 'S', 'p', 'I') AND spcname !~ '^pg_' GROUP BY 1 ORDER BY 1;"""
# Other roles would be missed as soon as the first statement about them is run: owners, and who was granted something.
_NEEDS_ROLES = """SELECT rolname FROM pg_roles, pg_database d WHERE datname = current_database() AND rolname !~ '^pg_'
  AND (pg_roles.oid = datdba
  OR EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = pg_roles.oid
    AND (dbid = d.oid OR (classid = 'pg_database'::regclass AND objid = d.oid)))
  OR EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid AND setrole = pg_roles.oid)) ORDER BY 1;"""
_KINDS = ("tables", "sequences", "extensions", "objects", "large_objects")
# Up to 0.6 these were counted together with what no dump holds: fewer of them come back.
_ONCE_MORE = ("functions", "indexes", "triggers")


def begin(session: Session, lock_timeout_seconds: float) -> str:
    """
    Begin the transaction that all evidence is taken in, and return the snapshot that pg_dump joins.

    Every table is locked first, against changes of its shape, until the session ends: whoever emptied and filled one
    anew (TRUNCATE, a rewriting ALTER) behind the snapshot would leave neither the old rows in it nor the new ones.
    Raises: CommandError where a table stays locked by others.
    """
    session.ask(f"SET lock_timeout = {round(lock_timeout_seconds * 1000)};")
    tables = _tables(session)
    tries_left = _LISTS
    while True:
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;")
        if tables:
            session.ask(f"LOCK TABLE {', '.join(f'ONLY {name}' for name in tables)} IN ACCESS SHARE MODE;")
        snapshot = session.value("SELECT pg_export_snapshot();")
        locked, tables = tables, _tables(session)
        tries_left -= 1
        if not tries_left or {*tables} <= {*locked}:
            return snapshot
        session.ask("COMMIT;")


def sequences(session: Session) -> dict[str, JsonValue]:
    """Return where each sequence is. They obey no snapshot: what is dumped later may be further on, never behind."""
    found = session.ask(_SEQUENCES, 4)
    return {
        _shown(name): {"next": int(at), "step": int(step), **({"cycles": True} if cycles == "t" else {})}
        for name, at, step, cycles in found
    }


def take(session: Session, seen_before: dict[str, JsonValue] | None = None) -> Evidence:
    """
    Count all that a database holds, in the session's transaction; with sequences as they were seen before the dump.

    Raises: CommandError where a table stays locked.
    """
    ((owner, encoding, size_bytes),) = session.ask(_DATABASE, 3)
    ((count, lo_bytes),) = session.ask(_LARGE_OBJECTS, 2)
    extensions = session.ask("SELECT extname, extversion FROM pg_extension ORDER BY 1;", 2)
    return {
        "owner": _shown(owner),
        "encoding": encoding,
        "size_bytes": int(size_bytes),
        "tablespaces": {_shown(name): int(in_it) for name, in_it in session.ask(_TABLESPACES, 2)},
        "tables": {_shown(name): int(rows) for name, rows in session.ask(_ROWS, 2)},
        "partitions": _partitions(session),
        "sequences": sequences(session) if seen_before is None else seen_before,
        "extensions": {_shown(name): version for name, version in extensions},
        "large_objects": {"count": int(count), "bytes": int(lo_bytes)},
        "objects": {kind: int(found) for kind, found in session.ask(_OBJECTS, 2) if found != "0"},
        # A name that is no ASCII is another one in a database of another encoding.
        "needs_roles": [name for (name,) in session.ask(_NEEDS_ROLES) if name.isascii()],
    }


def of_server(session: Session) -> Evidence:
    """Return the server's version, its place in the log, its roles and its tablespaces."""
    in_recovery = session.value("SELECT pg_is_in_recovery();") == "t"
    lsn = "pg_last_wal_replay_lsn()" if in_recovery else "pg_current_wal_lsn()"
    names = session.ask("SELECT spcname FROM pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1;")
    return {
        "server_version": session.value("SHOW server_version;"),
        "wal_lsn": session.value(f"SELECT {lsn};"),
        "roles": {_shown(name): rights for name, rights in session.ask(_ROLES, 2)},
        "tablespaces": [_shown(name) for (name,) in names],
    }


def is_bare(evidence: Mapping[str, Any]) -> bool:
    """Tell whether a database holds nothing but what every new one holds."""
    return (
        not any(evidence.get(kind) for kind in ("tables", "sequences", "objects"))
        and not evidence.get("large_objects", {}).get("count")
        and set(evidence.get("extensions", {})) <= {"plpgsql"}
    )


def differences(expected: Mapping[str, Any], seen: Mapping[str, Any]) -> list[str]:
    """Return what differs between what was captured and what is there now, each in words; empty where all is equal."""
    found = [
        f"{field}: expected {expected[field]!r}, seen {seen.get(field)!r}"
        for field in ("owner", "encoding")
        if field in expected and expected[field] != seen.get(field)
    ]
    for kind in _KINDS:
        before, now = expected.get(kind, {}), seen.get(kind, {})
        if kind == "extensions" and "plpgsql" not in before:  # every new database has it; somebody dropped it there
            now = {name: version for name, version in now.items() if name != "plpgsql"}
        if kind == "objects" and "needs_roles" not in expected:
            before = {
                **before,
                **{name: now.get(name) for name in _ONCE_MORE if now.get(name, 0) < before.get(name, 0)},
            }
        told = kind.removesuffix("s").replace("_", " ")
        found += [
            f"{told} {name}: expected {_told(before, name)}, seen {_told(now, name)}"
            for name in sorted({*before, *now})
            if not _agree(kind, before.get(name), now.get(name))
        ]
    return found


def summary(evidence: Mapping[str, Any]) -> str:
    """Say in one line how much was compared."""
    tables = evidence.get("tables", {})
    large = evidence.get("large_objects", {}).get("count", 0)
    return (
        f"{len(tables)} tables with {sum(tables.values())} rows, {len(evidence.get('sequences', {}))} sequences, "
        f"{sum(evidence.get('objects', {}).values())} other objects, {large} large objects"
    )


def _tables(session: Session) -> list[str]:
    return [name for (name,) in session.ask(_LOCKED)]


def _partitions(session: Session) -> dict[str, JsonValue]:
    """Return the tables that hold the rows of each partitioned table."""
    found: dict[str, list[JsonValue]] = {}
    for name, partition in session.ask(_PARTITIONS, 2):
        found.setdefault(_shown(name), []).append(_shown(partition))
    return {**found}


def _agree(kind: str, before: Any, now: Any) -> bool:
    if kind == "sequences" and before and now:
        further = (now["next"] - before["next"]) * before["step"]
        return bool(before["step"] == now["step"] and (further >= 0 or before.get("cycles")))
    if kind == "extensions":  # a restore makes the version that the target has
        return (before is None) == (now is None)
    return bool(before == now)


def _told(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "none" if value is None else str(value["next"]) if isinstance(value, dict) else str(value)


def _shown(name: str) -> str:
    """Return a name as JSON can hold it; bytes that are no UTF-8 become `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

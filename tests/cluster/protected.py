"""A server of the inventory as the test cluster has it: an estate that protects it, and what its databases hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from estate import Estate

from gxbackup.model import Manifest
from tests.cluster.scratch_api import kubectl
from tests.flows.conftest import Place

# Rows as text, in one order: a table of equal rows has an equal digest.
_DIGESTS = """
select json_object_agg(relname, xpath('//d/text()', query_to_xml(format(
    'select count(*) || '' '' || md5(coalesce(string_agg(t::text, chr(10) order by t::text), '''')) as d from %I.%I t',
    schemaname, relname), false, true, '')))
from pg_stat_user_tables
"""
# Every key, whether it has an end, and its value as Redis itself writes it down; a set's members have no order there.
_KEYS = """
local told = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
    local ends = redis.call('PTTL', key) > 0 and 'ends' or 'stays'
    local set = redis.call('TYPE', key)['ok'] == 'set'
    local value = set and table.concat(redis.call('SORT', key, 'ALPHA'), ' ') or redis.call('DUMP', key)
    told[#told + 1] = key .. ' ' .. ends .. ' ' .. redis.sha1hex(value)
end
return told
"""


class ServerPlace(Place):
    """An estate that plays one host and protects one server, which is the test cluster."""

    server: dict[str, Any]

    def protect(self, name: str, host: str, edit: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """Make the estate with this server alone, as the inventory has it; `edit` may change it."""

        def reduce(document: dict[str, Any]) -> None:
            self.server = document["servers"][name]
            edit(self.server)
            document["servers"] = {name: self.server}

        Estate.create(self, reduce)
        self.play(host)

    def manifest(self, snapshot: str) -> Manifest:
        folder = self.remote / self.server["remote_dir"] / snapshot
        return Manifest.model_validate_json((folder / "manifest.json").read_bytes())


def sql(namespace: str, statement: str, database: str = "postgres") -> str:
    """Run a statement in the namespace's postgres-0."""
    return kubectl(
        "exec", "-n", namespace, "postgres-0", "--",
        "psql", "-U", "postgres", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement,
    ).strip()  # fmt: skip


def rows(namespace: str, database: str) -> dict[str, Any]:
    """Return each table's rows, as their number and a digest of all that they hold."""
    told: dict[str, Any] = json.loads(sql(namespace, _DIGESTS, database) or "{}")
    return told


def redis(namespace: str, *words: str) -> str:
    """Run a command in the namespace's redis-0."""
    return kubectl("exec", "-n", namespace, "redis-0", "--", "redis-cli", *words).strip()


def keys(namespace: str, database: int) -> list[str]:
    """Return every key of a numbered database with a digest of its value."""
    return sorted(redis(namespace, "-n", str(database), "eval", _KEYS, "0").splitlines())


def drop_safety_copies(namespace: str) -> None:
    """Remove what restores in place left in postgres-0, also those that were killed: the cluster outlives the tests."""
    ours = "select datname from pg_database where datname ~ '_(before_\\d{8}_\\d{6}|restore_[0-9a-f]{8})'"
    for name in sql(namespace, ours).splitlines():
        sql(namespace, f'drop database "{name}" with (force)')


def drop_redis_copies(namespace: str) -> None:
    """Remove what restores in place left in redis-0."""
    kubectl("exec", "-n", namespace, "redis-0", "--", "sh", "-c", "rm -rf /data/before-restore-*")

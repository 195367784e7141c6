"""Scripts of PostgreSQL's own programs, statement by statement: which of them a restore runs. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from pydantic import Field

from gxbackup.model import Frozen
from gxbackup.postgres.server import quoted_text

_NAME = r'("(?:[^"]|"")+"|[^\s";]+)'
_ABOUT_ROLE = re.compile(
    rf"(?:CREATE ROLE|ALTER ROLE(?! ALL SET )|COMMENT ON ROLE|SECURITY LABEL .*? ON ROLE) {_NAME}", re.DOTALL
)
_OF_ALL_ROLES = re.compile(rf"ALTER ROLE ALL SET {_NAME} ")
_MEMBER = re.compile(rf"GRANT {_NAME} TO {_NAME}(?: |$)")
_TABLESPACE = re.compile(rf"(?:CREATE|ALTER|COMMENT ON) TABLESPACE {_NAME}|GRANT .*? ON TABLESPACE {_NAME}", re.DOTALL)
_PARAMETER_GRANT = re.compile(r"GRANT [A-Z, ]+ ON PARAMETER ")
_LOCATION = re.compile(r"(CREATE TABLESPACE .*? LOCATION )([eE]?'(?:[^']|'')*')", re.DOTALL)
_OF_A_DATABASE = re.compile(
    rf"ALTER DATABASE {_NAME} (?!OWNER TO )|ALTER ROLE {_NAME} IN DATABASE |COMMENT ON DATABASE |(GRANT|REVOKE) .*? ON "
    r"DATABASE |SECURITY LABEL .*? ON DATABASE |UPDATE pg_catalog\.pg_database ",
    re.DOTALL,
)
_TOKEN = re.compile(
    r"""--[^\n]*\n?           # a comment
    | \\[^\n]*\n?           # psql's own command
    | [eE]'(?:[^'\\]|\\.|'')*'  # a string with escapes
    | '(?:[^']|'')*'       # a string
    | "(?:[^"]|"")*"       # a name
    | ;
    | [^'";eE\\-]+ | .       # anything else
    """,
    re.VERBOSE | re.DOTALL,
)


class NewRoles(Frozen):
    """What a server still lacks of a script's roles and tablespaces."""

    roles: tuple[str, ...]
    tablespaces: dict[str, str] = Field(description="the folder of each")
    role_statements: tuple[str, ...]
    tablespace_statements: tuple[str, ...]
    parameter_grants: tuple[str, ...] = Field(description="all of the script: to repeat one changes nothing")
    settings_of_all: dict[str, str] = Field(description="what sets each parameter for all roles; all of the script")


def statements(script: str) -> Iterator[str]:
    """Yield the SQL statements of a script of pg_dumpall, without comments and psql's own commands."""
    current: list[str] = []
    for token in _TOKEN.findall(script):
        if token == ";":  # noqa: S105 - of SQL
            if text := "".join(current).strip():
                yield text
            current = []
        elif not token.startswith(("--", "\\")):
            current.append(token)


def lacking(
    script: str,
    roles: Collection[str],
    tablespaces: Collection[str],
    location: Callable[[str], str] | None = None,
    needed: Collection[str] | None = None,
) -> NewRoles:
    """
    Return what must be run so that roles and tablespaces that are not there are made; none that is there is touched.

    A role that exists keeps its password, rights and settings. A membership is granted where one of the two is new, a
    right to set a parameter always: whoever was granted it is there, or made.
    `location` says where a tablespace goes on a server whose folders are others; `needed`: no other one is made.
    """
    new_roles: list[str] = []
    new_tablespaces: dict[str, str] = {}
    role_statements: list[str] = []
    tablespace_statements: list[str] = []
    parameter_grants: list[str] = []
    for statement in statements(script):
        if about := _ABOUT_ROLE.match(statement):
            name = unquoted(about[1])
            if name in roles:
                continue
            if statement.startswith("CREATE"):
                new_roles.append(name)
            role_statements.append(statement)
        elif about := _TABLESPACE.match(statement):
            name = unquoted(about[1] or about[2])
            if name in tablespaces or (needed is not None and name not in needed):
                continue
            if (made := _LOCATION.match(statement)) is not None:
                new_tablespaces[name] = location(name) if location is not None else _text(made[2])
                statement = f"{made[1]}{quoted_text(new_tablespaces[name])}"
            tablespace_statements.append(statement)
        elif (about := _MEMBER.match(statement)) and {unquoted(about[1]), unquoted(about[2])} & {*new_roles}:
            role_statements.append(statement)
        elif _PARAMETER_GRANT.match(statement):
            parameter_grants.append(statement)
    return NewRoles(
        roles=tuple(new_roles),
        tablespaces=new_tablespaces,
        role_statements=tuple(role_statements),
        tablespace_statements=tuple(tablespace_statements),
        parameter_grants=tuple(parameter_grants),
        settings_of_all={
            unquoted(about[1]): statement
            for statement in statements(script)
            if (about := _OF_ALL_ROLES.match(statement))
        },
    )


def of_database(script: str) -> tuple[str, ...]:
    """Return what a script of `pg_restore --create` says of a database itself: its settings, grants and comment."""
    return tuple(statement for statement in statements(script) if _OF_A_DATABASE.match(statement))


def unquoted(name: str) -> str:
    """Return the name that an SQL identifier spells."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _text(literal: str) -> str:
    """Return the text that an SQL string literal spells."""
    if literal.startswith("'"):
        return literal[1:-1].replace("''", "'")
    return literal[2:-1].replace("''", "'").replace("\\\\", "\\")

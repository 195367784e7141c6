"""Write the pages of docs/reference that come from the code, and the README's table: `make docs`."""

from __future__ import annotations

import inspect
import json
import sys
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from gxbackup import errors, inventory
from gxbackup.inventory import (
    DataType,
    HostSettings,
    Inventory,
    Recipients,
    RemoteSettings,
    Server,
    Watch,
    WatchedCronJob,
)
from gxbackup.model import Manifest
from gxbackup.sources import AnySource
from gxbackup.sources.base import Source

PROJECT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- protected: begin -->", "<!-- protected: end -->"
GENERATED = "Written by `make docs` from the code; a test holds it.\n"


def pages() -> dict[Path, str]:
    """Return every generated file with its content."""
    reference = PROJECT / "docs" / "reference"
    return {
        reference / "inventory.md": _inventory(),
        reference / "errors.md": _errors(),
        reference / "deployments.md": _deployments(),
        reference / "manifest.schema.json": json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True) + "\n",
        PROJECT / "README.md": _readme(),
    }


def _inventory() -> str:
    lines = ["# deployments/inventory.yaml, field by field", "", GENERATED]
    parts: list[tuple[str, str, type[BaseModel]]] = [
        ("The file", "", Inventory),
        ("remote", "", RemoteSettings),
        ("recipients", "", Recipients),
        ("hosts: NAME", "", HostSettings),
        ("servers: NAME", "", Server),
        ("servers: NAME: data_types: NAME", "", DataType),
        ("watch", "", Watch),
        ("watch: cronjobs: [N]", "", WatchedCronJob),
        *((f"source, kind: {kind.model_fields['kind'].default}", _first_line(kind), kind) for kind in _source_kinds()),
    ]
    for title, about, model in parts:
        lines += [
            f"## {title}",
            "",
            *([about, ""] if about else []),
            "| field | type | default | what it says |",
            "|---|---|---|---|",
        ]
        lines += [_field(name, schema, model) for name, schema in model.model_json_schema()["properties"].items()]
        lines.append("")
    return "\n".join(lines)


def _source_kinds() -> list[type[Source]]:
    """Return every kind of the closed list, by name."""
    union, _ = typing.get_args(AnySource)
    return sorted(typing.get_args(union), key=lambda kind: str(kind.model_fields["kind"].default))


def _field(name: str, schema: dict[str, Any], model: type[BaseModel]) -> str:
    field = model.model_fields[name]
    default = (
        "required"
        if field.is_required()
        else f"`{json.dumps(field.get_default(call_default_factory=True), default=_plain)}`"
    )
    return f"| {name} | {_type(schema)} | {default} | {schema.get('description', '')} |"


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else list(value)


def _type(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [_type(choice) for choice in schema.get("anyOf", schema.get("oneOf", []))]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" or "$ref" in schema:
        return "mapping"
    limits = [
        f"{word} {schema[key]}"
        for key, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
        if key in schema
    ]
    return " ".join([str(schema.get("type", "any")), *limits])


def _first_line(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").splitlines()[0]


def _errors() -> str:
    tree = inspect.cleandoc(errors.__doc__ or "").split("\n", 2)[2]
    lines = [
        "# Errors",
        "",
        GENERATED,
        "Each names the thing, what was expected and what was seen, and ends in a `HINT:`.",
        "",
        "```",
    ]
    lines += [line[4:] if line.startswith("    ") else line for line in tree.splitlines()] + ["```", ""]
    lines += ["| error | trying again can help |", "|---|---|"]
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.BackupError):
            lines.append(
                f"| {name} | {'yes, unless it says otherwise' if kind.retryable else 'no, unless it says otherwise'} |"
            )
    return "\n".join(lines) + "\n"


def _deployments() -> str:
    document = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    lines = ["# Deployments", "", GENERATED, "| deployment | pool | schedule (UTC) | does |", "|---|---|---|---|"]
    for deployment in document["deployments"]:
        stem = deployment["entrypoint"].partition(":")[0].removesuffix(".py").replace("/", ".")
        module = __import__(stem, fromlist=["x"])
        flow = getattr(module, deployment["entrypoint"].partition(":")[2])
        when = ", ".join(f"`{schedule['cron']}`" for schedule in deployment.get("schedules", [])) or "by hand"
        about = inspect.cleandoc(flow.fn.__doc__).splitlines()[0]
        lines.append(f"| {deployment['name']} | {deployment['work_pool']['name']} | {when} | {about} |")
    return "\n".join(lines) + "\n"


def _readme() -> str:
    promised = inventory.load(PROJECT / "deployments" / "inventory.yaml")
    rows = ["| data type | server | lost at most | kept | restore |", "|---|---|---|---|---|"]
    for server, settings in promised.servers.items():
        for name, promise in settings.data_types.items():
            page = promise.restore_flow
            how = f"[{page}](docs/runbooks/{page}.md)" if page else "a reference, read by people"
            rows.append(f"| {name} | {server} | {promise.rpo_hours:g} h | {promise.keep_days} d | {how} |")
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + "\n".join(rows) + "\n" + END + after


def main() -> int:
    """Write every page."""
    for path, content in pages().items():
        path.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

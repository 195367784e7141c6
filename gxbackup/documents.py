"""YAML files that people write, read into frozen models: every fault is one line that names its path in the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gxbackup.errors import InventoryError

Model = TypeVar("Model", bound=BaseModel)
_UNKNOWN = "extra_forbidden"


def read_document(path: Path, model: type[Model], hint: str) -> Model:
    """
    Read a YAML file, in which no key is given twice, into a model.

    Raises: InventoryError, one line with the path in the file of the first fault, and this hint. An unknown word comes
    before all else: where one is misspelt, what is missing is its consequence.
    """
    document = _read_yaml(path, hint)
    if not isinstance(document, dict):
        raise InventoryError(f"{path}: expected a mapping, seen {type(document).__name__}", hint)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        first, *others = sorted(found, key=lambda fault: fault["type"] != _UNKNOWN)
        where = _where(first["loc"], document)
        message = re.sub(r"^(Value error|Assertion failed), ", "", first["msg"])
        seen = "" if isinstance(first["input"], dict | list) else f", seen {first['input']!r}"
        if first["type"] == _UNKNOWN:
            beside = [str(fault["loc"][-1]) for fault in found if _is_missing_beside(first["loc"], fault)]
            message, seen = "unknown key" + (f", and {', '.join(beside)} is missing there" if beside else ""), ""
            others = others[len(beside) :]
        more = f" (and {len(others)} more)" if others else ""
        text = f"{path}: {where}: {message}{seen}{more}" if where else f"{path}: {message}{more}"
        raise InventoryError(text, hint) from None


def _is_missing_beside(location: tuple[int | str, ...], fault: ErrorDetails) -> bool:
    return fault["type"] == "missing" and fault["loc"][:-1] == location[:-1]


class _UniqueKeysLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the stock loader keeps the last one silently."""


def _mapping(loader: _UniqueKeysLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key_node.tag != "tag:yaml.org,2002:merge" and key in seen:
            raise InventoryError(f"line {key_node.start_mark.line + 1}: {key!r} is given twice")
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=deep))


_UniqueKeysLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read_yaml(path: Path, hint: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InventoryError(
            f"{path}: cannot be read: {error}", "start in the project's folder, or set GX_INVENTORY"
        ) from None
    try:
        return yaml.load(text, Loader=_UniqueKeysLoader)  # noqa: S506 - a SafeLoader, only stricter
    except InventoryError as error:
        raise InventoryError(f"{path}: {error.message}", hint) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}:" if where else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InventoryError(f"{path}:{line} not valid YAML: {problem}", hint) from None


def _where(location: tuple[int | str, ...], document: Any) -> str:
    """Spell a fault's path without the tag names that a union of sources adds to it."""
    steps: list[str] = []
    here = document
    for position, step in enumerate(location):
        last = position == len(location) - 1
        if isinstance(here, dict) and step not in here and not last:
            continue
        steps.append(f"[{step}]" if isinstance(step, int) else str(step))
        here = _below(here, step)
    return ".".join(steps).replace(".[", "[")


def _below(here: Any, step: int | str) -> Any:
    """Return what lies at one step of a path in a document, None where nothing does."""
    if isinstance(here, dict):
        return here.get(step)
    return here[step] if isinstance(here, list) and isinstance(step, int) and step < len(here) else None

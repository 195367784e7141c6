"""The documents are held like code: every command in them is one that runs, every link leads somewhere."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference
import yaml
from prefect import Flow
from pydantic import TypeAdapter

from flows import command_line
from gxbackup import inventory, layout
from gxbackup.adapters import process

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
# Programs of others that the pages name, each with its words left to its own manual.
OTHERS = {"age-keygen", "apt-get", "cd", "export", "git", "grep", "set", "systemctl"}
# The shell that the pages mean: Debian itself has neither `python` nor `prefect`.
SHELL = """cd /opt/gx-backup
export PATH=/opt/gx-backup/.venv/bin:$PATH
set -a; . /etc/gx-backup/worker.env; set +a
"""
# What needs it.
IN_SHELL = re.compile(r"^(?:python|prefect|make deploy)\b.*", re.MULTILINE)


def blocks() -> list[tuple[str, str]]:
    """Return every line of every shell block as (page, command)."""
    found = []
    for page in PAGES:
        for body in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            found += [(str(page.relative_to(PROJECT)), line) for line in body.splitlines() if line.strip()]
    return found


def deployments() -> dict[str, Any]:
    document = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    return {deployment["name"]: deployment for deployment in document["deployments"]}


def flow_of(entrypoint: str) -> Flow[..., Any]:
    path, _, name = entrypoint.partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(flow, Flow)
    return flow


def check_deployment_run(words: list[str]) -> None:
    name, *options = words
    assert name.partition("/")[0] in deployments(), f"no deployment {name}"
    flow = flow_of(deployments()[name.partition("/")[0]]["entrypoint"])
    given = dict(word.split("=", 1) for word in options if "=" in word)
    parameters = {key: TypeAdapter(Any).validate_python(yaml.safe_load(value)) for key, value in given.items()}
    flow.validate_parameters(parameters)
    assert {word for word in options if "=" not in word} <= {"-p", "--watch"}
    required = flow.parameters.required or []
    assert set(required) <= set(given), f"{name}: {required} must be given"


@functools.cache
def prefect_help(*command: str) -> str:
    """Return what the installed Prefect says of one of its commands."""
    prefect = str(Path(sys.executable).parent / "prefect")
    told = process.run([prefect, *command, "--help"], timeout_seconds=60, cwd=PROJECT)
    return told.stdout.decode()


def check_prefect(words: list[str]) -> None:
    help_text = prefect_help(*words[:2])
    assert f"prefect {' '.join(words[:2])} " in help_text
    options = [word for word in words[2:] if word.startswith("-")]
    assert [option for option in options if not re.search(rf"(?<!\S){option}(?!\S)", help_text)] == []


def check_python_module(words: list[str]) -> None:
    module, *options = words
    if module.startswith("flows."):
        flow = flow_of(f"flows/{module.partition('.')[2]}.py:{module.partition('.')[2]}")
        command_line._parser(flow).parse_args(options)
    else:
        assert importlib.util.find_spec(module) is not None


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [word for word in words if "=" not in word and word not in targets] == []


@pytest.mark.parametrize(("page", "line"), blocks())
def test_every_command_in_the_documents_is_one_that_runs(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if "|" in words:
        words, (reader, *_) = words[: words.index("|")], words[words.index("|") + 1 :]
        assert reader in OTHERS
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)

    match words:
        case ["prefect", "deployment", "run", *rest]:
            check_deployment_run(rest)
        case ["prefect", *rest]:
            check_prefect(rest)
        case ["python", "-m", *rest]:
            check_python_module(rest)
        case ["make", *rest]:
            check_make(rest)
        case ["cp", source, _]:
            assert (PROJECT / source).exists()
        case ["install", "-m", "0600", source, target]:
            assert (PROJECT / source).exists()
            assert target.startswith("/etc/gx-backup/")
        case ["install", "-d", "-m", "0700", "/etc/gx-backup"]:
            pass
        case [".venv/bin/rclone", "lsd", _]:
            assert (PROJECT / ".venv/bin/rclone").exists()
        case [program, *_]:
            assert program in OTHERS, f"{page}: {program}: held by no test"


@pytest.mark.parametrize("page", sorted({page for page, line in blocks() if IN_SHELL.match(line)}))
def test_who_starts_from_nothing_is_told_the_shell_before_the_first_command_that_needs_it(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    needs_no_link = not page.startswith("docs/runbooks/") or re.search(r"/(README|re(store|cover)-|.*-is-gone)", page)

    before, told, _ = text.partition(SHELL if needs_no_link else "(README.md#the-shell)")

    assert told
    assert IN_SHELL.findall(before) == []


def test_the_index_has_the_shell_under_the_heading_that_pages_lead_to() -> None:
    index = (PROJECT / "docs" / "runbooks" / "README.md").read_text(encoding="utf-8")

    assert SHELL in index.partition("\n## The shell\n")[2].partition("\n## ")[0]


def test_a_shell_can_read_the_workers_settings() -> None:
    example = PROJECT / "deployments" / "systemd" / "worker.env.example"

    told = process.run(["sh", "-euc", f"set -a; . {example}; set +a; env"], timeout_seconds=30, cwd=PROJECT)

    assert b"\nPREFECT_API_URL=http://127.0.0.1:4200/api\n" in told.stdout
    assert b"\nRCLONE_CONFIG=/etc/gx-backup/rclone.conf\n" in told.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)

    broken = [
        link
        for link in re.findall(r"\]\(([^)#]+)", text)
        if not link.startswith("http") and not (page.parent / link).exists()
    ]

    assert broken == []


@pytest.mark.parametrize("path", reference.pages(), ids=lambda path: path.name)
def test_generated_pages_are_what_the_code_says(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == reference.pages()[path], "run `make docs`"


@pytest.mark.parametrize("name", [name for name in deployments() if not name.startswith("backup-")])
def test_everything_that_a_person_starts_has_its_runbook(name: str) -> None:
    page = (PROJECT / "docs" / "runbooks" / f"{name}.md").read_text(encoding="utf-8")

    assert page.startswith(f"# {name}\n")
    assert f"prefect deployment run {name}" in page


@pytest.mark.parametrize("name", [name for name in deployments() if name.startswith(("restore-", "recover-"))])
def test_every_restore_has_a_page_with_meaning_impact_diagnosis_and_mitigation(name: str) -> None:
    page = (PROJECT / "docs" / "runbooks" / f"{name}.md").read_text(encoding="utf-8")

    headings = re.findall(r"^## .*$", page, re.MULTILINE)
    assert headings == ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]


def test_every_runbook_is_found_from_the_first_page() -> None:
    index = (PROJECT / "docs" / "runbooks" / "README.md").read_text(encoding="utf-8")

    missing = [page.name for page in (PROJECT / "docs" / "runbooks").glob("*.md") if f"({page.name})" not in index]

    assert missing == ["README.md"]


def test_whoever_lost_everything_finds_that_page_first() -> None:
    index = (PROJECT / "docs" / "runbooks" / "README.md").read_text(encoding="utf-8")

    rows = index.partition("| what is gone | page |\n|---|---|\n")[2].splitlines()

    assert "(everything-is-gone.md)" in rows[0]
    assert "(a-host-is-gone.md)" in rows[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_file_of_the_project_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"(?<![\w/])deployments/[\w./@-]+\.[a-z]+", page.read_text(encoding="utf-8"))

    assert [name for name in named if not (PROJECT / name).exists()] == []


def promises() -> dict[str, dict[str, inventory.DataType]]:
    servers = inventory.load(PROJECT / "deployments" / "inventory.yaml").servers
    return {name: server.data_types for name, server in servers.items()}


PROMISED = promises()


def owners(flow: str) -> set[str]:
    """Return the servers that a restore puts something back of."""
    return {name for name, types in PROMISED.items() if any(one.restore_flow == flow for one in types.values())}


def restored_snapshots() -> list[tuple[str, str, str, str]]:
    """Return every restore in a shell block that names its snapshot, as (page, flow, server, snapshot)."""
    found = []
    for page, line in blocks():
        snapshot = re.search(r"""(?:--snapshot |snapshot=")(\d{8}_\d{6})""", line)
        flow = re.search(r"(?:-m flows\.|deployment run )(restore[-_]\S+)", line)
        if snapshot and flow:
            name = flow[1].replace("_", "-")
            told = re.search(r"(?:--server |server=)(\w+)", line)
            by_itself = (
                flow_of(deployments()[name]["entrypoint"]).parameters.properties.get("server", {}).get("default")
            )
            (server,) = {told[1]} if told else {by_itself} if by_itself else owners(name)
            found.append((page, name, server, snapshot[1]))
    return found


def scheduled(server: str, data_type: str) -> Iterator[str]:
    """Yield each HHMM at which a backup takes a data type of a server on its day."""
    rpo_hours = PROMISED[server][data_type].rpo_hours
    for deployment in deployments().values():
        if not {"backup", server} <= set(deployment["tags"]):
            continue
        for schedule in deployment["schedules"]:
            given = deployment.get("parameters", {}) | schedule.get("parameters", {})
            if data_type in given.get("without", []) or data_type not in given.get("only", [data_type]):
                continue
            if rpo_hours > given.get("rpo_hours", rpo_hours):
                continue
            minute, hour, *rest = schedule["cron"].split()
            assert rest == ["*", "*", "*"]
            hours = range(0, 24, int(hour.removeprefix("*/"))) if hour.startswith("*/") else [int(hour)]
            yield from (f"{each:02}{int(minute):02}" for each in hours)


@pytest.mark.parametrize(("page", "flow", "server", "snapshot"), restored_snapshots())
def test_a_snapshot_in_an_example_is_one_that_the_schedules_make(
    page: str, flow: str, server: str, snapshot: str
) -> None:
    restored = {name: promise for name, promise in PROMISED[server].items() if promise.restore_flow == flow}
    begun = layout.snapshot_time(snapshot)

    assert restored, f"{page}: {flow} puts back nothing of {server}"
    for name, promise in restored.items():
        assert f"{begun:%H%M}" in set(scheduled(server, name)), f"{page}: no backup takes {name} at {snapshot}"
        assert promise.rpo_hours <= 24 or f"{begun:%a}" == "Sun", f"{page}: {name} is taken on Sundays"


def test_no_page_copies_a_whole_folder_of_settings_over_those_that_reach_the_remote() -> None:
    copies = re.compile(r"^(?:cp|rsync|mv) .*/etc/gx-backup/? ", re.MULTILINE)

    assert [str(page.relative_to(PROJECT)) for page in PAGES if copies.search(page.read_text(encoding="utf-8"))] == []

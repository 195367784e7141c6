"""
The log file of each flow, for Loki: `/var/log/backup-<flow>.log`, one line per event.

    time=2026-11-28T02:00:07.123Z level=ERROR server=vps1 data_type=website run=3f2a0c… msg="website is missing: …"

The word ERROR stands in a line exactly where a person must act: once for each data type that is missing or check that
fails, else once for the run. What a task reports and its flow tells again, a try that is made again, and "ERROR:" of
other programs do not count. A log that cannot be written never ends a run.

Source: strategy, "Log monitoring": `{filename="/var/log/backup-*.log"} |= "ERROR"`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from prefect.context import FlowRunContext

from gxbackup.errors import BackupError
from tasks import host

DEFAULT_DIR = Path("/var/log")
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "gxbackup")
FILE_BYTES = 10 * 1024**2
FILES_KEPT = 5
# Prefect's own last word on a run; ours, where there was one, says more.
_ENGINES = ("flow_engine", "engine")
_WORDS_READ = 12
# What Prefect's engine writes around a flow, such as one that cannot be loaded, it writes without the flow's name; the
# worker that started the process tells it here.
_NAMELESS = "<unknown>"
_FLOW_OF_PROCESS = "PREFECT__FLOW_NAME"


def log_dir() -> Path:
    """Return the folder of the log files: GX_LOG_DIR, else /var/log."""
    return Path(os.environ.get("GX_LOG_DIR") or DEFAULT_DIR)


def file_of(flow_name: str) -> Path:
    """Return the log file of a flow: `backup-vps1.log` of backup-vps1, `backup-restore-website.log` of a restore."""
    return log_dir() / f"backup-{flow_name.removeprefix('backup-')}.log"


def attach() -> None:
    """Write the events of runs to their flows' files from now on; harmless to call again."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, RunLog) for handler in logger.handlers):
            logger.addHandler(_HANDLER)


class RunLog(logging.Handler):
    """Writes each event of a flow run as one line to the file of its flow."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._files: dict[Path, RotatingFileHandler] = {}
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; an event outside any run is nobody's."""
        # Not `prefect.runtime`: outside of a run it would ask the server.
        context = FlowRunContext.get()
        flow_name = getattr(record, "flow_name", None) or (context and context.flow and context.flow.name)
        if flow_name == _NAMELESS:
            flow_name = os.environ.get(_FLOW_OF_PROCESS)
        if not flow_name:
            return
        try:
            file = self._file(file_of(str(flow_name)))
            file.emit(self._line(record, str(flow_name), context))
            file.close()  # the next line opens it again: whoever else rotates or removes it is in nobody's way
        except OSError:
            self.handleError(record)

    def _file(self, path: Path) -> RotatingFileHandler:
        if path not in self._files:
            path.parent.mkdir(parents=True, exist_ok=True)
            opened = RotatingFileHandler(
                path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8", delay=True
            )
            opened.setFormatter(logging.Formatter("%(message)s"))
            self._files[path] = opened
        return self._files[path]

    def _line(self, record: logging.LogRecord, flow_name: str, context: FlowRunContext | None) -> logging.LogRecord:
        flow_run = context.flow_run if context else None
        run = str(getattr(record, "flow_run_id", None) or (flow_run.id if flow_run else "-"))
        level = self._level(record, run)
        message = record.getMessage().strip().replace("\\", "\\\\").replace('"', '\\"')
        message = " | ".join(line.strip() for line in message.splitlines() if line.strip())
        if level != "ERROR":
            message = message.replace("ERROR", "Error")
        words = f"{getattr(record, 'task_run_name', '') or ''} {message}".replace(":", " ").split()[:_WORDS_READ]
        servers, data_types = _known()
        server = _first(words, servers) or _server_of_run(flow_name, context, servers)
        at = f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3]
        text = (
            f"time={at}Z level={level} server={server} data_type={_first(words, data_types) or '-'} "
            f'run={run} msg="{message}"'
        )
        return logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, text, None, None)

    def _level(self, record: logging.LogRecord, run: str) -> str:
        if record.levelno < logging.ERROR:
            return record.levelname
        is_told_again = record.name.startswith("prefect.task_runs") or (record.module in _ENGINES and run in self._told)
        if is_told_again:
            return "WARNING"
        self._told.add(run)
        return "ERROR"


_HANDLER = RunLog()


def _known() -> tuple[list[str], list[str]]:
    try:
        servers = host.inventory().servers
    except BackupError:
        return [], []
    return [*servers], [name for server in servers.values() for name in server.data_types]


def _first(words: Iterable[str], known: Iterable[str]) -> str | None:
    names = set(known)
    return next((word for word in words if word in names), None)


def _server_of_run(flow_name: str, context: FlowRunContext | None, servers: Iterable[str]) -> str:
    """Return the server that the run is for: by its parameter, else by the flow's name: backup-vps1."""
    named = context.parameters.get("server") if context and context.parameters else None
    if named:
        return str(named)
    return max((one for one in servers if f"{flow_name}-".startswith(f"backup-{one}-")), key=len, default="-")

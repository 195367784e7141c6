"""A real Prometheus with our rules, and what it scrapes: Debian's node_exporter and Pushgateway, all on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from estate import PROJECT, await_condition, end, free_port


class Watched:
    """A textfile folder, node_exporter, a Pushgateway where one is wanted, and a Prometheus that scrapes them."""

    def __init__(self, root: Path) -> None:
        self.textfile = root / "textfile"
        self.exporter = f"http://127.0.0.1:{free_port()}"
        self.pushgateway = f"http://127.0.0.1:{free_port()}"
        self._prometheus = f"http://127.0.0.1:{free_port()}"
        self._root = root
        self._children: list[subprocess.Popen[bytes]] = []
        self._jobs: dict[str, str] = {}

    def start_exporter(self) -> None:
        """Start node_exporter with its textfile collector alone."""
        self.textfile.mkdir(parents=True, exist_ok=True)
        self._start(
            "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
            f"--collector.textfile.directory={self.textfile}", _listen(self.exporter), ready=f"{self.exporter}/metrics",
        )  # fmt: skip
        self._jobs["node"] = self.exporter

    def start_pushgateway(self) -> None:
        """Start a Pushgateway that keeps what it is told in memory."""
        self._start(
            "prometheus-pushgateway", "--persistence.file=", _listen(self.pushgateway),
            ready=f"{self.pushgateway}/-/ready",
        )  # fmt: skip
        self._jobs["pushgateway"] = self.pushgateway

    def start_prometheus(self) -> None:
        """Start a Prometheus with our rules; wait until it has scraped everything that was started before."""
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "250ms"},
            "rule_files": [self._fast(path) for path in sorted((PROJECT / "deployments/prometheus").glob("*.yaml"))],
            "scrape_configs": [
                # What was pushed names its own job.
                {"job_name": name, "honor_labels": True, "static_configs": [{"targets": [_address(url)]}]}
                for name, url in self._jobs.items()
            ],
        }
        (self._root / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._start(
            "prometheus", f"--config.file={self._root}/prometheus.yml", f"--storage.tsdb.path={self._root}/data",
            _listen(self._prometheus), ready=f"{self._prometheus}/-/ready",
        )  # fmt: skip
        await_condition("its targets", lambda: self._up() == {*self._jobs}, 60)

    def stop(self) -> None:
        """End all of them."""
        for child in reversed(self._children):
            end(child)

    def figures(self) -> dict[str, float]:
        """Return what node_exporter serves now: each series as it spells it → value."""
        lines = fetch(f"{self.exporter}/metrics").splitlines()
        series = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in series}

    def series(self, job: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return what Prometheus holds of ours by that job: labels, without those of the way it came → value."""
        found = self._ask("query?" + urlencode({"query": f'{{__name__=~"backup_.+",job="{job}"}}'}))["result"]
        return {
            tuple(sorted(item for item in one["metric"].items() if item[0] not in ("job", "instance"))): float(value)
            for one in found
            for _, value in [one["value"]]
        }

    def firing(self) -> list[str]:
        """Return every alert that fires as `NAME server data_type`, also twice where it fires twice."""
        alerts = [one for one in self._ask("alerts")["alerts"] if one["state"] == "firing"]
        shown = ("alertname", "server", "data_type")
        return sorted(" ".join(one["labels"][name] for name in shown if name in one["labels"]) for one in alerts)

    def await_firing(self, *expected: str) -> None:
        """Wait until these alerts fire and no other."""
        with contextlib.suppress(TimeoutError):
            await_condition(str(expected), lambda: self.firing() == sorted(expected), 90)
            return
        raise AssertionError(f"expected {sorted(expected)}, seen {self.firing()}")

    def _start(self, *words: str, ready: str) -> None:
        with (self._root / f"{words[0]}.log").open("ab") as log:
            child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, process_group=0)
        self._children.append(child)
        await_condition(words[0], lambda: _answers(ready), 60, died=lambda: child.poll() is not None)

    def _ask(self, path: str) -> Any:
        return json.loads(fetch(f"{self._prometheus}/api/v1/{path}"))["data"]

    def _up(self) -> set[str]:
        return {one["scrapePool"] for one in self._ask("targets")["activeTargets"] if one["health"] == "up"}

    def _fast(self, path: Path) -> str:
        """Copy rules, each `for` shortened to a second."""
        document = yaml.safe_load(path.read_text())
        for rule in (rule for group in document["groups"] for rule in group["rules"]):
            if "for" in rule:
                rule["for"] = "1s"
        copy = self._root / path.name
        copy.write_text(yaml.safe_dump(document))
        return str(copy)


@contextlib.contextmanager
def watched(root: Path, *, pushgateway: bool = False) -> Iterator[Watched]:
    """Give all of them, started."""
    made = Watched(root)
    try:
        made.start_exporter()
        if pushgateway:
            made.start_pushgateway()
        made.start_prometheus()
        yield made
    finally:
        made.stop()


def fetch(url: str) -> str:
    """Return what an address answers."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def _answers(url: str) -> bool:
    try:
        return bool(fetch(url))
    except OSError:
        return False


def _address(url: str) -> str:
    return url.removeprefix("http://")


def _listen(url: str) -> str:
    return f"--web.listen-address={_address(url)}"

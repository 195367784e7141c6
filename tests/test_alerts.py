"""Alert rules, their pages and the dashboard: promtool agrees, every name has its page, every figure is exported."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import logs

PROJECT = Path(__file__).resolve().parent.parent
RULES = PROJECT / "deployments" / "prometheus"
RUNBOOKS = PROJECT / "docs" / "runbooks"
DASHBOARD = PROJECT / "deployments" / "grafana" / "dashboard.json"
HEADINGS = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
FIGURE = re.compile(r"\bbackup_[a-z_]+\b")


def rules(name: str, key: str) -> dict[str, dict[str, Any]]:
    document = yaml.safe_load((RULES / name).read_text())
    return {rule[key]: rule for group in document["groups"] for rule in group["rules"]}


def exported() -> set[str]:
    return set(FIGURE.findall((PROJECT / "gxbackup" / "metrics.py").read_text())) | {
        f"backup_{place}_{what}_bytes" for place in ("staging", "remote") for what in ("free", "total")
    }


def promtool(*words: str | Path, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], text=True, capture_output=True, check=False, cwd=cwd)


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", "--lint-fatal", *sorted(RULES.glob("*.yaml")))

    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_sees_each_alert_fire_once_by_name_and_clear() -> None:
    done = promtool("test", "rules", PROJECT / "tests" / "prometheus" / "alerts_test.yaml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire() -> None:
    tested = yaml.safe_load((PROJECT / "tests" / "prometheus" / "alerts_test.yaml").read_text())
    fired = {
        case["alertname"] for test in tested["tests"] for case in test["alert_rule_test"] if case.get("exp_alerts")
    }

    assert fired == set(rules("alerts.yaml", "alert"))


def test_every_alert_is_seen_to_fire_by_a_real_prometheus() -> None:
    files = ("flows/test_alerts_fire.py", "integration/test_prometheus.py")
    text = "".join((PROJECT / "tests" / file).read_text() for file in files)

    assert {name for name in rules("alerts.yaml", "alert") if not re.search(rf'"{name}[ "]', text)} == set()


@pytest.mark.parametrize("name", [*rules("alerts.yaml", "alert"), "BackupLogError"])
def test_every_alert_has_a_page_with_meaning_impact_diagnosis_and_mitigation(name: str) -> None:
    page = (RUNBOOKS / f"alert-{name}.md").read_text()

    headings = re.findall(r"^##? .*$", page, re.MULTILINE)
    assert headings == [f"# alert-{name}", *HEADINGS]


def test_no_page_is_left_of_an_alert_that_is_gone() -> None:
    pages = {page.stem.removeprefix("alert-") for page in RUNBOOKS.glob("alert-*.md")}

    assert pages == {*rules("alerts.yaml", "alert"), *loki_alerts()}


def loki_alerts() -> list[str]:
    document = yaml.safe_load((PROJECT / "deployments" / "loki" / "rules.yaml").read_text())
    return [rule["alert"] for group in document["groups"] for rule in group["rules"]]


def automations() -> dict[str, dict[str, Any]]:
    document = yaml.safe_load((PROJECT / "deployments" / "automations.yaml").read_text())
    return {automation["name"]: automation for automation in document["automations"]}


@pytest.mark.parametrize("name", automations())
def test_every_message_of_prefect_has_its_page_the_one_that_it_names(name: str) -> None:
    [row] = re.findall(rf"^\| {name} \| (.*) \|$", (RUNBOOKS / "README.md").read_text(), re.MULTILINE)
    [page] = re.findall(r"\]\(([a-zA-Z-]+)\.md\)", row)
    body = automations()[name].get("notify", {"body": f"docs/runbooks/{page}.md"})["body"]

    assert f"docs/runbooks/{page}.md" in body
    assert re.findall(r"^## .*$", (RUNBOOKS / f"{page}.md").read_text(), re.MULTILINE) == HEADINGS


def test_whatever_end_of_the_hourly_look_was_told_its_being_well_again_is_told_too() -> None:
    told = automations()["gx-health-failing"]["trigger"]["expect"]

    assert automations()["gx-health-well"]["trigger"]["after"] == told


def test_the_window_of_heartbeats_is_at_least_three_of_them() -> None:
    unit = (PROJECT / "deployments" / "systemd" / "gx-backup-worker@.service").read_text()
    beat_seconds = int(unit.partition("PREFECT_FLOWS_HEARTBEAT_FREQUENCY=")[2].split()[0])

    assert automations()["gx-run-without-heartbeat"]["trigger"]["within"] >= 3 * beat_seconds


def test_no_page_is_left_of_a_message_that_is_gone() -> None:
    assert {page.stem for page in RUNBOOKS.glob("gx-*.md")} <= {*automations()}


def test_lokis_rule_reads_the_files_that_flows_write() -> None:
    text = (PROJECT / "deployments" / "loki" / "rules.yaml").read_text()
    (pattern,) = re.findall(r'filename=~"([^"]+)"', text)

    assert re.fullmatch(pattern.replace("\\\\", "\\"), str(logs.DEFAULT_DIR / logs.file_of("backup-vps1").name))
    assert str(logs.DEFAULT_DIR / "backup-*.log") in (PROJECT / "deployments/loki/config.alloy.example").read_text()


def test_every_page_that_a_finding_names_is_there() -> None:
    code = [*(PROJECT / "gxbackup").glob("*.py"), *(PROJECT / "flows").glob("*.py")]
    named = {
        page for file in code for page in re.findall(r'"(alert-[A-Za-z]+|broken-chain|fabric-set)"', file.read_text())
    }

    assert named
    assert {page for page in named if not (RUNBOOKS / f"{page}.md").is_file()} == set()


def test_rules_and_dashboard_use_only_figures_that_are_exported() -> None:
    used = set()
    for file in [*RULES.glob("*.yaml"), DASHBOARD]:
        used |= set(FIGURE.findall(re.sub(r"#.*", "", file.read_text())))

    assert used - exported() == set()


def test_the_dashboard_holds_together() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    places = [panel["gridPos"] for panel in panels]

    assert dashboard["uid"] == "gx-backup"
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["expr"] for target in panel["targets"])
    for number, one in enumerate(places):
        assert one["x"] + one["w"] <= 24
        for other in places[:number]:
            apart = one["x"] >= other["x"] + other["w"] or other["x"] >= one["x"] + one["w"]
            assert apart or one["y"] >= other["y"] + other["h"] or other["y"] >= one["y"] + one["h"]


@pytest.mark.parametrize(
    "expression",
    [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]],
)
def test_promtool_can_read_every_expression_of_the_dashboard(expression: str, tmp_path: Path) -> None:
    rule = {"groups": [{"name": "one", "rules": [{"record": "one:figure", "expr": expression}]}]}
    (tmp_path / "rule.yaml").write_text(yaml.safe_dump(rule))

    assert promtool("check", "rules", tmp_path / "rule.yaml").returncode == 0

"""The words of a unit's ExecStart, as systemd reads them, and those of them that a reset is given."""

from __future__ import annotations

import pytest

from gxbackup.adapters.k3s_unit import Unit, server_words


def unit(*words: str, **variables: str) -> Unit:
    return Unit(words, variables, {})


INSTALLED = r"""# /etc/systemd/system/k3s.service
[Unit]
Description=Lightweight Kubernetes

[Service]
Type=notify
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStart=/usr/local/bin/k3s \
    server \
	'--node-ip' \
	'10.0.0.3' \
# a comment between
	"--node-label=note=two words" \
	--kubelet-arg='a="b"' --tls-san=it\'s\x2dme \

ExecStopPost=/bin/true
"""


def test_the_words_of_an_installed_unit_are_read_over_several_lines_and_without_their_quotes() -> None:
    assert server_words(INSTALLED, {}) == (
        "--node-ip", "10.0.0.3", "--node-label=note=two words", '--kubelet-arg=a="b"', "--tls-san=it's-me",
    )  # fmt: skip


def test_the_last_execstart_counts_and_an_empty_one_takes_the_others_away() -> None:
    drop_in = (
        "# /etc/systemd/system/k3s.service.d/flags.conf\n[Service]\nExecStart=\nExecStart=@k3s k3s server --debug\n"
    )

    assert server_words(INSTALLED + drop_in, {}) == ("--debug",)
    assert server_words(INSTALLED + "[Service]\nExecStart=\n", {}) == ()
    assert server_words("", {}) == ()


def test_variables_and_the_hosts_name_stand_for_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "vps3.example.org")
    line = "ExecStart=k3s server --node-name=%H --tls-san %l $MORE --node-label=a=${HOW}-$$-100%% $NONE"

    assert server_words(line, {"MORE": "--flannel-iface 'eth 1'", "HOW": "b c"}) == (
        "--node-name=vps3.example.org", "--tls-san", "vps3", "--flannel-iface", "eth 1", "--node-label=a=b c-$-100%",
    )  # fmt: skip


@pytest.mark.parametrize(
    "left_out",
    [
        "--server https://10.0.0.4:6443",
        "-s=https://10.0.0.4:6443",
        "--cluster-init",
        "--cluster-init=true",
        "--cluster-reset --cluster-reset-restore-path /old",
        "--token -hunter2",
        "-t hunter2",
        "--token-file=/etc/token",
        "--agent-token hunter2",
        "--agent-token-file /etc/token",
        "--data-dir /elsewhere",
        "-d=/elsewhere",
        "--etcd-s3 --etcd-s3-insecure --etcd-s3-bucket=b --etcd-s3-access-key a --etcd-s3-secret-key hunter2",
        "--datastore-endpoint postgres://k3s:hunter2@db/k3s --datastore-keyfile=/key",
        "--secrets-encryption",
        "--cluster-secret hunter2",
        "--some-password=hunter2",
        "--vpn-auth name=tailscale,joinKey=hunter2",
    ],
)
def test_a_reset_has_no_secret_and_nothing_that_it_replaces(left_out: str) -> None:
    needed = ["--node-ip", "10.0.0.3", "--tls-san=a", "--cluster-cidr", "10.9.0.0/16", "--disable", "traefik"]

    assert unit(*needed[:2], *left_out.split(), *needed[2:]).for_reset() == needed


def test_a_reset_has_the_variables_of_k3s_and_only_those_are_shown_that_are_no_secret() -> None:
    seen = unit(
        K3S_NODE_NAME="vps3", K3S_VPN_AUTH="joinKey=hunter2", K3S_TOKEN="hunter2", K3S_TOKEN_FILE="/t", K3S_URL="https://a",
        K3S_AGENT_TOKEN="hunter2", K3S_DATASTORE_ENDPOINT="hunter2", K3S_CLUSTER_INIT="true", PATH="/bin",
    )  # fmt: skip

    assert seen.environment() == {"K3S_NODE_NAME": "vps3", "K3S_VPN_AUTH": "joinKey=hunter2"}
    assert seen.shown() == {"K3S_NODE_NAME": "vps3"}


def test_a_flag_is_found_in_either_spelling() -> None:
    assert unit("--node-name", "a").option("node-name") == unit("--node-name=a").option("node-name") == "a"
    assert unit("--node-name-too=b", "--debug").option("node-name") == ""

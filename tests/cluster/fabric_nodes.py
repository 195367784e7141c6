"""A node of Fabric in the test cluster: a StatefulSet of one pod, and the claim that its volume is bound to."""

from __future__ import annotations

NODE = "gx-node"  # the cluster's one, which is this machine
WRITES = "touch /run/gx-ready; while :; do echo tick >>/var/hyperledger/production/ticks; sleep 0.05; done"


def node(name: str, tier: str, command: list[str], mount: str, namespace: str) -> dict[str, object]:
    labels = {"app": name, "tier": tier}
    container = {
        "name": tier, "image": "gx-test/base:1", "command": command,
        "env": [{"name": "FABRIC_CA_HOME", "value": "/var/hyperledger/fabric-ca-server"}],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/run/gx-ready"]}, "periodSeconds": 1,
                           "timeoutSeconds": 20},
        "volumeMounts": [{"name": "data", "mountPath": mount}],
    }  # fmt: skip
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}}
    return {
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceName": name, "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
        },
    }  # fmt: skip

"""The closed list of source kinds: the table of contents of what can be captured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gxbackup.sources.chaincode import Chaincode
from gxbackup.sources.couchdb import CouchDB
from gxbackup.sources.directory import Directory
from gxbackup.sources.docker_state import DockerState
from gxbackup.sources.etcd import Etcd
from gxbackup.sources.fabric_crypto import FabricCrypto
from gxbackup.sources.kubernetes_objects import KubernetesObjects
from gxbackup.sources.ledger import Ledger
from gxbackup.sources.postgres import Postgres
from gxbackup.sources.redis import Redis

AnySource = Annotated[
    Chaincode | CouchDB | Directory | DockerState | Etcd | FabricCrypto | KubernetesObjects | Ledger | Postgres | Redis,
    Field(discriminator="kind"),
]

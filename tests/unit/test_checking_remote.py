"""What a remote says of what was sent: absent for a moment is asked again, another content is final."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from gxbackup import checking
from gxbackup.errors import IntegrityError
from gxbackup.model import Artifact, Part


@pytest.mark.parametrize(("stored", "is_asked_again"), [({}, True), ({"files/one": "b" * 64}, False)])
def test_a_file_that_is_not_listed_yet_is_asked_for_again(stored: dict[str, str], is_asked_again: bool) -> None:
    def sha256_many(folder: str, names: Sequence[str]) -> dict[str, str]:
        return stored

    remote: Any = SimpleNamespace(sha256_many=sha256_many)
    part = Part(path="files/one", size_bytes=1, sha256="a" * 64)
    artifact = Artifact(
        data_type="website", kind="directory", path="files/one", parts=(part,), sealed_size_bytes=1,
        sealed_sha256="a" * 64, plain_size_bytes=1, plain_sha256="a" * 64, keep_days=1,
    )  # fmt: skip

    with pytest.raises(IntegrityError, match="vps1/20261122_020000/files/one: expected sha256 a") as failure:
        checking.verify_on_remote(remote, "vps1", "20261122_020000", [artifact])

    assert failure.value.retryable is is_asked_again

"""Redis servers that let nobody in without a name, speak TLS alone, or forbid what is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from gxbackup.errors import CollectError
from tests.crypto_files import identity
from tests.integration.redis_servers import LocalRedis, source

SECRET = "hunter2"


def test_where_an_acl_forbids_config_the_file_that_is_named_is_taken(own: Any, tmp_path: Path) -> None:
    redis = own(password=SECRET)
    redis.fill()
    redis.cli("ACL", "SETUSER", "default", "-config")

    with pytest.raises(CollectError, match="expected CONFIG GET dir to tell where its RDB is") as refused:
        source(redis).collect(redis.host(), "redis-mainnet")
    [capture] = source(redis, file=f"{redis.folder}/dump.rdb").collect(redis.host(), "redis-mainnet")

    assert "source.file names it" in str(refused.value)
    assert capture.settings["file"] == f"{redis.folder}/dump.rdb"


def test_what_an_acl_forbids_is_told_as_that_and_not_as_a_wrong_password(own: Any) -> None:
    redis = own(password=SECRET)
    redis.cli("ACL", "SETUSER", "default", "-bgsave")

    with pytest.raises(CollectError, match="redis-cli BGSAVE: expected to be allowed, seen NOPERM") as refused:
        source(redis).collect(redis.host(), "redis-mainnet")

    assert "name another as source.user" in str(refused.value)
    assert "REDIS_PASSWORD" not in str(refused.value)


def test_a_user_of_its_own_is_let_in_where_the_default_one_is_off(own: Any) -> None:
    redis = own()
    redis.fill()
    redis.cli("ACL", "SETUSER", "backup", "on", f">{SECRET}", "+info", "+time", "+bgsave", "+config|get")
    redis.cli("ACL", "SETUSER", "default", "off")
    kept = LocalRedis(redis.path, password=SECRET)  # the place, with the password where the server has it
    kept.port = redis.port

    [capture] = source(kept, user="backup").collect(kept.host(), "redis-mainnet")

    assert capture.expected_size_bytes


def test_a_server_that_speaks_tls_alone_is_captured(own: Any, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    identity(certificate, key, "localhost")
    redis = LocalRedis(tmp_path / "tls")
    redis.settings = ["--port", "0", "--tls-port", str(redis.port), "--tls-cert-file", str(certificate),
                      "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]  # fmt: skip
    words = {"tls_ca_file": str(certificate), "tls_cert_file": str(certificate), "tls_key_file": str(key)}
    redis.spawn()
    try:
        ask = [
            "redis-cli",
            "-p",
            str(redis.port),
            "--tls",
            "--cacert",
            certificate,
            "--cert",
            certificate,
            "--key",
            key,
        ]
        while subprocess.run([*ask, "PING"], capture_output=True, check=False).stdout.strip() != b"PONG":
            assert redis._process is not None
            assert redis._process.poll() is None, redis.log()
        subprocess.run([*ask, "SET", "a", "1"], check=True, stdout=subprocess.DEVNULL)

        [capture] = source(redis, **words).collect(redis.host(), "redis-mainnet")
    finally:
        redis.stop()

    assert capture.evidence["redis_version"]

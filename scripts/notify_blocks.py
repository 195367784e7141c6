"""Where notifications go: each address of GX_NOTIFY_URL stored as one of Prefect's own notification blocks, by name."""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from pydantic import SecretStr

from gxbackup.errors import SetupError

BLOCK = "gx-notify"
SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
HINT = "GX_NOTIFY_URL: addresses with a space between them, each https://… (Slack's own too) or mailto://, mailtos://…"


def store(addresses: str) -> list[UUID]:
    """
    Store every address as a block and return their ids; a block that is there keeps its id.

    Raises: SetupError for an address of another kind; it names the scheme only, for the rest may be a secret.
    """
    blocks = dict(_block(address) for address in addresses.split())
    if len(blocks) != len(addresses.split()):
        raise SetupError("GX_NOTIFY_URL: expected one address of a kind, seen two", HINT)
    return [_store(name, block) for name, block in blocks.items()]


def _store(name: str, block: Block) -> UUID:
    stored = block.save(name, overwrite=True)
    assert isinstance(stored, UUID)
    return stored


def _block(address: str) -> tuple[str, Block]:
    split = urlsplit(address)
    if split.scheme in ("mailto", "mailtos"):
        # Prefect's block for e-mail needs SendGrid. Its Slack block hands any address to Apprise, which speaks SMTP;
        # a block class of our own would have to be installed beside the Prefect server too.
        return f"{BLOCK}-mail", SlackWebhook(url=SecretStr(address))
    if split.scheme == "https" and split.hostname in SLACK_HOSTS:
        return f"{BLOCK}-slack", SlackWebhook(url=SecretStr(address))
    if split.scheme in ("http", "https"):
        json_data = {"subject": "{{subject}}", "body": "{{body}}", "text": "{{subject}}\n{{body}}"}
        return BLOCK, CustomWebhookNotificationBlock(name=BLOCK, url=address, json_data=json_data)
    raise SetupError(f"GX_NOTIFY_URL: expected https, mailto or mailtos, seen {split.scheme!r}", HINT)

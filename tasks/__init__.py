"""Prefect's thin view of the domain: names, retries and timeouts. What is done is done in `gxbackup`."""

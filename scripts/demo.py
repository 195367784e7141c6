"""
Back up a website by a Prefect deployment, destroy it, restore it, and compare every byte and attribute.

Exit status 0 only where the restored tree is equal. KEEP=1 leaves the UI up until Ctrl-C. Run it with `make demo`.
However it is ended (Ctrl-C, SIGTERM, a closed terminal), the server and the worker that it started end with it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from estate import PROJECT, Estate, estate, fresh
from site_tree import describe, make_website

ROOT = PROJECT / ".demo"
SITE = ROOT / "www" / "gxcoin.money"
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _only_the_website(document: dict[str, Any]) -> None:
    website = document["servers"]["vps1"]["data_types"]["website"]
    website["source"]["root"] = str(SITE)
    document["servers"]["vps1"]["data_types"] = {"website": website}


def _say(text: str) -> None:
    print(f"--- {text}", flush=True)


def _run(demo: Estate, name: str, *words: str) -> None:
    _say(shlex.join(["prefect", "deployment", "run", name, *words, "--watch"]))
    demo.run_deployment(name, *words)


def _end(number: int, _frame: object) -> None:
    for asked in ENDS:
        signal.signal(asked, signal.SIG_IGN)  # whoever asks twice must not cut short what stops the others
    sys.exit(128 + number)


def main() -> int:
    """Run the demo and return its exit status."""
    for number in ENDS:
        signal.signal(number, _end)
    began = time.monotonic()
    fresh(ROOT)
    SITE.mkdir(parents=True)
    make_website(SITE)
    before = describe(SITE)
    _say(f"a website of {len(before)} entries lies in {SITE}")
    with estate(ROOT, _only_the_website) as demo:
        _say("starting a Prefect server (SQLite), a worker for the pool vps1, and deploying")
        demo.start_server()
        demo.deploy()
        demo.start_worker("vps1")
        _run(demo, "backup-vps1")
        _show(demo)
        _say("destroying the website")
        shutil.rmtree(SITE)
        _run(demo, "restore-website", "-p", "mode=in-place", "-p", "approve=true", "-p", 'restart_container=""')
        after = describe(SITE) if SITE.exists() else {}
        differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if differing:
            _say(f"NOT EQUAL: {len(differing)} entries differ, first {differing[0]!r}")
            return 1
        _say(f"equal: {len(after)} entries, every byte and attribute, in {time.monotonic() - began:.0f} s")
        if os.environ.get("KEEP"):
            _say(f"the UI is at {(demo.url or '').removesuffix('/api')} until Ctrl-C")
            while True:
                signal.pause()
    return 0


def _show(demo: Estate) -> None:
    for file in sorted(demo.remote.rglob("*")):
        if file.is_file():
            print(f"    {Path(file).relative_to(demo.remote)}  {file.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())

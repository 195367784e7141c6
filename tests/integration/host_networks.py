"""A network of its own for each host, wired to one bridge: it reaches the Prefect server there, and no other host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NAMESPACES = Path("/run/netns")


class HostNetworks:
    """
    Network namespaces and their wires. Names tell the process that made them: the next one sweeps a killed one's.

    A host has its address and one route, to the server's: to every other host the network is unreachable.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._mark = os.getpid()
        half, net = divmod(self._mark % 512, 256)
        self._subnet = f"198.{18 + half}.{net}"  # RFC 2544: for tests, routed nowhere
        self.server = f"{self._subnet}.1"
        self._hosts = {name: number for number, name in enumerate(hosts, start=2)}

    def make(self) -> None:
        """Make all of it; `remove` removes it, also half made."""
        bridge = f"gxb{self._mark}"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{self.server}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for name, number in self._hosts.items():
            namespace, port = self._namespace(name), self._port(name)
            _ip("netns", "add", namespace)
            _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("link", "set", port, "master", bridge, "up")
            inside = ("-netns", namespace)
            _ip(*inside, "address", "add", f"{self._subnet}.{number}/32", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip(*inside, "link", "set", device, "up")
            _ip(*inside, "route", "add", self.server, "dev", "eth0")

    def remove(self) -> None:
        """Remove all of it."""
        _remove(self._mark)

    def address(self, host: str) -> str:
        """Return a host's address."""
        return f"{self._subnet}.{self._hosts[host]}"

    def inside(self, host: str) -> list[str]:
        """Return the words before a command that runs on this host's network."""
        return ["nsenter", f"--net={NAMESPACES / self._namespace(host)}"]

    def unplug(self, host: str) -> None:
        """Pull a host's cable: what it sends is lost, and nothing tells it so."""
        _ip("link", "set", self._port(host), "down")

    def plug(self, host: str) -> None:
        """Put the cable back."""
        _ip("link", "set", self._port(host), "up")

    def connect(self, host: str, address: str, port: int) -> str:
        """Connect from a host to an address; return what went wrong, nothing where it answers."""
        words = [*self.inside(host), "bash", "-c", 'exec 3<>"/dev/tcp/$0/$1"', address, str(port)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stderr

    def _namespace(self, host: str) -> str:
        return f"gxhost-{self._mark}-{host}"

    def _port(self, host: str) -> str:
        return f"gxv{self._mark}-{self._hosts[host]}"


@contextmanager
def host_networks(hosts: Sequence[str]) -> Iterator[HostNetworks]:
    """Give a network for each host; all is gone after the block, and so is what a killed run left."""
    for left in {int(one.name.split("-")[1]) for one in NAMESPACES.glob("gxhost-*")}:
        if not Path(f"/proc/{left}").exists():
            _remove(left)
    made = HostNetworks(hosts)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _remove(mark: int) -> None:
    for device in Path("/sys/class/net").iterdir():
        if device.name == f"gxb{mark}" or device.name.startswith(f"gxv{mark}-"):
            _ip("link", "delete", device.name)
    for namespace in NAMESPACES.glob(f"gxhost-{mark}-*"):
        _ip("netns", "delete", namespace.name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=60)

"""
A CSI driver of one's own for a real kubelet: a volume is a disk image of this machine, mounted where the kubelet says.

It registers itself and serves the node's calls by gRPC: HTTP/2 by h2, which httpx brings, and the few messages by hand.
Source: the CSI specification's csi.proto; the kubelet's pluginregistration/v1/api.proto.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from tests.fabric_network import varint

DRIVER = "image.gxt.test"
_LENGTH_DELIMITED = 2
_OK, _UNIMPLEMENTED, _INTERNAL = 0, 12, 13
# Numbers of fields in NodePublishVolumeRequest and NodeUnpublishVolumeRequest.
_VOLUME_ID, _TARGET_TO_MOUNT, _TARGET_TO_UNMOUNT = 1, 4, 2


def _string(field: int, text: str) -> bytes:
    return varint(field << 3 | _LENGTH_DELIMITED) + varint(len(text.encode())) + text.encode()


def _strings(message: bytes) -> dict[int, str]:
    """Return the last value of every field that is a string, or looks like one; numbers are passed over."""
    found: dict[int, str] = {}
    while message:
        tag, message = _number(message)
        if tag & 7 != _LENGTH_DELIMITED:
            _, message = _number(message)
            continue
        length, message = _number(message)
        found[tag >> 3] = message[:length].decode(errors="replace")
        message = message[length:]
    return found


def _number(message: bytes) -> tuple[int, bytes]:
    value = 0
    for position, byte in enumerate(message):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, message[position + 1 :]
    raise ValueError(f"expected a varint, seen {message!r}")


class NodeDriver:
    """The driver on one node. What went wrong in a call is told to the kubelet, which shows it as the pod's event."""

    def __init__(self, kubelet_dir: Path, node: str) -> None:
        self._endpoint = kubelet_dir / "plugins" / f"{DRIVER}.sock"
        self._registration = kubelet_dir / "plugins_registry" / f"{DRIVER}-reg.sock"
        self._node = node

    def answer(self, path: str, request: bytes) -> bytes:
        """Return the answer to a call; NotImplementedError for one that a node driver need not have."""
        match path.rpartition("/")[2]:
            case "GetInfo":
                return b"".join(
                    _string(field, text)
                    for field, text in enumerate(("CSIPlugin", DRIVER, str(self._endpoint), "1.0.0"), start=1)
                )
            case "NodeGetInfo":
                return _string(1, self._node)
            case "NodePublishVolume":
                told = _strings(request)
                self._mount(Path(told[_VOLUME_ID]), Path(told[_TARGET_TO_MOUNT]))
            case "NodeUnpublishVolume":
                target = Path(_strings(request)[_TARGET_TO_UNMOUNT])
                if target.is_mount():
                    subprocess.run(["umount", target], check=True, capture_output=True)
                with suppress(FileNotFoundError):
                    target.rmdir()
            case "NotifyRegistrationStatus" | "NodeGetCapabilities":
                pass
            case _:
                raise NotImplementedError
        return b""

    def _mount(self, image: Path, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        if not target.is_mount():
            subprocess.run(["mount", "-o", "loop", image, target], check=True, capture_output=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve for the length of a block; the kubelet knows the driver as long as its sockets are there."""
        with _listening(self._endpoint) as calls, _listening(self._registration) as registrations:
            for listener in (calls, registrations):
                threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            yield

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._converse, args=(client,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        """Answer the calls of one connection, in turn."""
        config = H2Configuration(client_side=False, header_encoding="utf-8", validate_inbound_headers=False)
        connection = H2Connection(config)
        connection.initiate_connection()
        calls: dict[int, tuple[str, bytearray]] = {}
        with client, suppress(OSError):
            client.sendall(connection.data_to_send())
            while received := client.recv(65536):
                for event in connection.receive_data(received):
                    if isinstance(event, RequestReceived):
                        calls[event.stream_id] = (dict(event.headers)[":path"], bytearray())
                    elif isinstance(event, DataReceived):
                        calls[event.stream_id][1].extend(event.data)
                        connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, StreamEnded):
                        self._reply(connection, event.stream_id, *calls.pop(event.stream_id))
                client.sendall(connection.data_to_send())

    def _reply(self, connection: H2Connection, stream: int, path: str, framed: bytearray) -> None:
        status, message, words = _OK, b"", ""
        try:
            message = self.answer(path, bytes(framed[5:]))
        except NotImplementedError:
            status = _UNIMPLEMENTED
        except subprocess.CalledProcessError as error:
            status, words = _INTERNAL, error.stderr.decode(errors="replace").strip()
        connection.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        if status == _OK:
            connection.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message)
        trailers = [("grpc-status", str(status)), ("grpc-message", words)]
        connection.send_headers(stream, trailers, end_stream=True)


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)  # of a run that was killed
    with socket.socket(socket.AF_UNIX) as listener:
        # Under another name first: the kubelet calls a driver as soon as its socket is there.
        new = path.with_name(f".{os.getpid()}")
        listener.bind(str(new))
        listener.listen()
        new.rename(path)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)

"""
Reads the headers of a tar stream as it passes by: evidence on the way out, a customs officer on the way back.

File data is skipped, never held. Knows the formats that GNU tar writes: POSIX with pax headers, GNU with long names,
and sparse files of either. What it does not know it refuses, so that it never understands a stream otherwise than tar.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from gxbackup import tally
from gxbackup.errors import IntegrityError, RestoreRefusedError
from gxbackup.model import Evidence
from gxbackup.tally import Member, Tally, relative, shown
from gxbackup.vetting import Vetting

BLOCK_BYTES = 512
LARGEST_EXTENSION_BYTES = 16 * 1024**2
# The kernel takes 4095 in one call, the folder that a restore unpacks into among them. A tree may be deeper; GNU tar
# packs that, step by step, and cannot unpack it.
LONGEST_NAME_BYTES = 3840
_ZEROS = bytes(BLOCK_BYTES)
_KINDS = {
    b"0": tally.FILE,
    b"\0": tally.FILE,
    b"7": tally.FILE,
    b"S": tally.FILE,
    b"1": tally.HARD_LINK,
    b"2": tally.SYMLINK,
    b"3": tally.CHARACTER,
    b"4": tally.BLOCK,
    b"5": tally.DIRECTORY,
    b"6": tally.FIFO,
}
_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")
_CAPABILITY = b"SCHILY.xattr.security.capability"


class TarScanner:
    """
    Follows a plain tar stream that is fed in chunks of any size.

    Without `allowed` it only counts. With it, `feed` raises before a chunk may be handed on that holds: an absolute
    name, a `..`, a name below a symlink of the same archive, a hard link that leaves the tree, an unknown kind of
    member, or more devices, fifos, setuid files and outward symlinks than the (signed) evidence says the source had.
    """

    def __init__(self, allowed: Evidence | None = None, on_member: Callable[[Member], None] | None = None) -> None:
        self.tally = Tally()
        self._vet = Vetting(allowed) if allowed is not None else None
        self._on_member = on_member
        self._partial = bytearray()
        self._skip_bytes = 0
        self._want_bytes = BLOCK_BYTES
        self._read: Callable[[bytes], None] = self._header
        self._extension_bytes = 0
        self._pax: dict[bytes, bytes] = {}
        self._long: dict[bytes, bytes] = {}
        self._data_bytes = 0
        self.ended = False  # both zero blocks were seen
        self.too_long: list[bytes] = []  # names that no restore could make

    def feed(self, chunk: memoryview) -> None:
        """
        Take the next bytes of the stream.

        Raises: IntegrityError where this is no tar that we know; RestoreRefusedError (with `allowed` only).
        """
        position, end = 0, len(chunk)
        while position < end:
            if self._skip_bytes:
                step = min(self._skip_bytes, end - position)
                self._skip_bytes -= step
                position += step
                continue
            missing = self._want_bytes - len(self._partial)
            if end - position < missing:
                self._partial += chunk[position:]
                return
            block = bytes(chunk[position : position + missing])
            position += missing
            if self._partial:
                block = bytes(self._partial) + block
                self._partial.clear()
            self._read(block)

    def finish(self) -> Evidence:
        """
        Return what the whole stream held.

        Raises: IntegrityError unless it ended with the two zero blocks that end a tar (`tar -t` lets a stream pass that
        was cut between two members).
        """
        if not self.ended or self._partial:
            raise IntegrityError(
                f"tar: expected two zero blocks at its end, seen it cut after {self.tally.members()} members"
            )
        return self.tally.evidence()

    def _expect(self, read: Callable[[bytes], None], want_bytes: int = BLOCK_BYTES) -> None:
        self._read = read
        self._want_bytes = want_bytes

    def _header(self, block: bytes) -> None:
        if block == _ZEROS:
            if self._pax or self._long:
                raise self._fault("an extended header that no member follows")
            self._expect(self._second_zeros)
            return
        # The low half of Adler-32 is 1 + the sum of all bytes: the header's own checksum, many times faster than sum().
        sum_of_bytes = (zlib.adler32(block) & 0xFFFF) - 1 - sum(block[148:156]) + 8 * 0x20
        if (sum_of_bytes - self._number(block[148:156])) % 65521:
            raise self._fault("a header whose checksum does not fit")
        if block[257:262] != b"ustar":
            raise self._fault("a header that is neither POSIX nor GNU")
        flag = block[156:157]
        if flag == b"x" or flag == b"g":
            if self._pax or self._long:
                raise self._fault("two extended headers for one member")
            self._extend(block, self._pax_records if flag == b"x" else self._global_records)
        elif flag == b"L" or flag == b"K":
            if self._pax or flag in self._long:
                raise self._fault("two extended headers for one member")
            self._long[flag] = b""
            self._extend(block, self._long_name if flag == b"L" else self._long_link)
        else:
            self._member(block, flag)

    def _extend(self, block: bytes, read: Callable[[bytes], None]) -> None:
        self._extension_bytes = self._number(block[124:136])
        if not 0 < self._extension_bytes <= LARGEST_EXTENSION_BYTES:
            raise self._fault(f"an extended header of {self._extension_bytes} bytes")
        self._expect(read, -(-self._extension_bytes // BLOCK_BYTES) * BLOCK_BYTES)

    def _pax_records(self, payload: bytes) -> None:
        self._pax = self._records(payload[: self._extension_bytes])
        self._expect(self._header)

    def _global_records(self, payload: bytes) -> None:
        for key in self._records(payload[: self._extension_bytes]):
            if key != b"comment":
                raise self._fault(f"a global header that sets {shown(key)}")
        self._expect(self._header)

    def _records(self, payload: bytes) -> dict[bytes, bytes]:
        records: dict[bytes, bytes] = {}
        position = 0
        while position < len(payload):
            space = payload.find(b" ", position, position + 20)
            digits = payload[position : max(space, position)]
            after = position + int(digits) if digits.isdigit() else 0
            key, equals, value = payload[space + 1 : after - 1].partition(b"=")
            if not space < after - 1 < len(payload) or payload[after - 1] != 0x0A or not equals:
                raise self._fault("a pax record that cannot be read")
            if not key or key[0] in b" \t" or b"\0" in key or (not value and key in _NAMES):
                raise self._fault(f"an odd pax record, {shown(key)}")
            records[key] = value
            position = after
        return records

    def _long_name(self, payload: bytes) -> None:
        self._set_long(b"L", payload)

    def _long_link(self, payload: bytes) -> None:
        self._set_long(b"K", payload)

    def _set_long(self, flag: bytes, payload: bytes) -> None:
        self._long[flag] = payload[: self._extension_bytes].partition(b"\0")[0]
        if not self._long[flag]:
            raise self._fault("an empty long name")
        self._expect(self._header)

    def _member(self, block: bytes, flag: bytes) -> None:
        kind = _KINDS.get(flag, b"")
        pax, long = self._pax, self._long
        name = long.get(b"L") or pax.get(b"GNU.sparse.name") or pax.get(b"path") or _name(block)
        target = b""
        if kind == tally.SYMLINK or kind == tally.HARD_LINK:
            target = long.get(b"K") or pax.get(b"linkpath") or block[157:257].partition(b"\0")[0]
        elif kind == tally.CHARACTER or kind == tally.BLOCK:
            target = b"%d,%d" % (self._number(block[329:337]), self._number(block[337:345]))
        stored_bytes = self._decimal(pax[b"size"]) if b"size" in pax else self._number(block[124:136])
        member = Member(
            relative(name, kind),
            kind,
            self._number(block[100:108]) & 0o7777,
            self._decimal(pax[b"uid"]) if b"uid" in pax else self._number(block[108:116]),
            self._decimal(pax[b"gid"]) if b"gid" in pax else self._number(block[116:124]),
            self._real_bytes(block, flag, stored_bytes),
            self._seconds(pax[b"mtime"]) if b"mtime" in pax else self._number(block[136:148]),
            target,
            _CAPABILITY in pax,
        )
        if not kind:
            raise RestoreRefusedError(f"{shown(name)}: a member of unknown kind {shown(flag)}")
        if stored_bytes < 0 or (stored_bytes and kind != tally.FILE):
            raise self._fault(f"{stored_bytes} bytes of data behind {shown(name)}")
        if flag == b"S" and block[262] != 0x20:
            raise self._fault(f"a sparse file of a foreign format, {shown(name)}")
        if long:
            self._long = {}
        if pax:
            self._pax = {}
        self._after_header(block, flag, -(-stored_bytes // BLOCK_BYTES) * BLOCK_BYTES)
        self._count(member)
        if self._vet is not None:
            self._vet.check(member, self.tally)
        if self._on_member is not None:
            self._on_member(member)

    def _count(self, member: Member) -> None:
        self.tally.add(member)
        if len(member.name) > LONGEST_NAME_BYTES:
            self.too_long.append(member.name)

    def _real_bytes(self, block: bytes, flag: bytes, stored_bytes: int) -> int:
        """Return a file's size with its holes."""
        if flag == b"S":
            return self._number(block[483:495])
        if self._pax:
            real = self._pax.get(b"GNU.sparse.realsize") or self._pax.get(b"GNU.sparse.size")
            return self._decimal(real) if real else stored_bytes
        return stored_bytes

    def _after_header(self, block: bytes, flag: bytes, data_bytes: int) -> None:
        if flag == b"S" and block[482]:  # more of the map of holes stands between the header and the data
            self._data_bytes = data_bytes
            self._expect(self._sparse_map)
        else:
            self._skip_bytes = data_bytes
            self._expect(self._header)

    def _sparse_map(self, block: bytes) -> None:
        if not block[504]:
            self._skip_bytes = self._data_bytes
            self._expect(self._header)

    def _second_zeros(self, block: bytes) -> None:
        if block != _ZEROS:
            raise self._fault("a lone zero block")
        self.ended = True
        self._expect(self._padding)

    def _padding(self, block: bytes) -> None:
        if block != _ZEROS:
            raise self._fault("data behind its end")

    def _number(self, field: bytes) -> int:
        digits = field.strip(b" \0")
        if digits.isdigit() and b"8" not in digits and b"9" not in digits:
            return int(digits, 8)
        if not digits:
            return 0
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        if field[0] == 0xFF:
            return int.from_bytes(field, "big", signed=True)
        raise self._fault(f"a number that cannot be read: {shown(field)}")

    def _decimal(self, value: bytes) -> int:
        if not value.isdigit() or len(value) > 20:
            raise self._fault(f"a number that cannot be read: {shown(value)}")
        return int(value)

    def _seconds(self, value: bytes) -> int:
        """Return whole seconds, rounded down as `stat` does for times before 1970."""
        whole, _, fraction = value.partition(b".")
        if whole[:1] == b"-":
            return -self._decimal(whole[1:]) - (1 if fraction.strip(b"0") else 0)
        return self._decimal(whole)

    def _fault(self, seen: str) -> IntegrityError:
        return IntegrityError(
            f"tar: expected a stream that GNU tar wrote, seen {seen}, after {self.tally.members()} members"
        )


def _name(block: bytes) -> bytes:
    name = block[0:100].partition(b"\0")[0]
    if block[345] and block[262] == 0:  # POSIX splits long names; GNU keeps times there
        return block[345:500].partition(b"\0")[0] + b"/" + name
    return name

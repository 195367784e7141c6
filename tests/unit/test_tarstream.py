"""The reader of tar streams, held against GNU tar and Python's tarfile: it counts what they wrote, refuses the rest."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gxbackup import tally
from gxbackup.errors import IntegrityError, RestoreRefusedError
from gxbackup.model import Evidence
from gxbackup.tally import Member
from gxbackup.tarstream import TarScanner

NOTHING: Evidence = {}


def scan(stream: bytes, allowed: Evidence | None = None, chunk_bytes: int = 1024**2) -> Evidence:
    scanner = TarScanner(allowed)
    view = memoryview(stream)
    for begin in range(0, len(stream), chunk_bytes):
        scanner.feed(view[begin : begin + chunk_bytes])
    return scanner.finish()


def members(stream: bytes) -> list[Member]:
    found: list[Member] = []
    scanner = TarScanner(on_member=found.append)
    scanner.feed(memoryview(stream))
    scanner.finish()
    return found


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def archive(*entries: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for info in entries:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return buffer.getvalue()


def gnu_tar(tree: Path, *words: str) -> bytes:
    return subprocess.run(
        ["tar", "--create", "--file=-", *words, "--directory", tree, "."], check=True, capture_output=True
    ).stdout


def with_checksum(header: bytes) -> bytes:
    summed = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    return header[:148] + b"%06o\0 " % summed + header[156:]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"x" * 700)
    (root / ("long" * 40)).mkdir()
    (root / ("long" * 40) / ("name" * 60)).write_bytes(b"y")
    (root / os.fsdecode(b"\xff\xfe\nraw")).write_bytes(b"")
    (root / "inward").symlink_to("file")
    (root / "outward").symlink_to("../../elsewhere")
    (root / "far").symlink_to("/" + "far/" * 60)
    os.link(root / "file", root / "second")
    os.link(root / "inward", root / "second inward")
    os.mkfifo(root / "fifo")
    (root / "setuid").write_bytes(b"#!")
    (root / "setuid").chmod(0o4755)
    with (root / "holes").open("wb") as holes:
        for number in range(40):
            holes.seek(number * 256 * 1024)
            holes.write(b"data")
        holes.truncate(16 * 1024**2)
    os.utime(root / "file", ns=(0, -1_500_000_000))
    return root


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--format=posix", "--sparse", "--xattrs"), id="posix"),
        pytest.param(("--format=posix", "--sparse", "--sparse-version=0.1"), id="posix, sparse 0.1"),
        pytest.param(("--format=posix", "--sparse", "--sparse-version=0.0"), id="posix, sparse 0.0"),
        pytest.param(("--format=gnu", "--sparse"), id="gnu, old sparse map in several blocks"),
        pytest.param(("--format=gnu",), id="gnu without sparse"),
    ],
)
def test_it_counts_what_lies_in_every_format_of_gnu_tar(tree: Path, words: tuple[str, ...]) -> None:
    evidence = scan(gnu_tar(tree, *words))

    counts = {key: evidence[key] for key in tally.KEYS if not key.endswith("_sha256")}
    assert counts == {
        "files": 5, "directories": 2, "symlinks": 3, "hard_links": 2, "devices": 0, "fifos": 1, "setuid": 1,
        "outward_links": 2, "bytes": 700 + 1 + 2 + 16 * 1024**2,
    }  # fmt: skip


def test_every_format_gives_the_same_digests_for_the_same_tree(tree: Path) -> None:
    os.utime(tree / "file", (1, 1))

    posix, gnu = (scan(gnu_tar(tree, f"--format={form}", "--sparse")) for form in ("posix", "gnu"))

    assert posix == gnu


def test_the_digests_do_not_depend_on_the_order_nor_on_which_hard_link_comes_first(tree: Path) -> None:
    names = sorted(os.fsencode(path.relative_to(tree)) for path in tree.rglob("*"))

    def listed(order: list[bytes]) -> Evidence:
        words = ["tar", "-c", "--format=posix", "--no-recursion", "--null", "-C", tree, "-T", "-"]
        return scan(subprocess.run(words, input=b"\0".join(order), check=True, capture_output=True).stdout)

    assert listed(names) == listed(names[::-1])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tree: (tree / "file").chmod(0o600), id="mode"),
        pytest.param(lambda tree: os.chown(tree / "file", 12, 0), id="owner"),
        pytest.param(lambda tree: os.utime(tree / "fifo", (5, 5)), id="time"),
        pytest.param(lambda tree: (tree / "setuid").write_bytes(b"#!longer"), id="size"),
        pytest.param(lambda tree: (tree / "fifo").rename(tree / "pipe"), id="name"),
        pytest.param(
            lambda tree: ((tree / "far").unlink(), (tree / "far").symlink_to("/else")), id="where a link leads"
        ),
    ],
)
def test_each_change_of_an_attribute_changes_the_evidence(tree: Path, change: Callable[[Path], object]) -> None:
    before = scan(gnu_tar(tree, "--format=posix"))

    change(tree)

    assert scan(gnu_tar(tree, "--format=posix")) != before


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=300).filter(
    lambda name: name not in (".", "..") and not name.startswith("./")
)
ENTRIES = st.lists(
    st.builds(
        entry,
        NAMES,
        st.just(tarfile.REGTYPE),
        size=st.integers(0, 5000),
        mode=st.integers(0, 0o7777),
        uid=st.integers(0, 2**32),
        gid=st.integers(0, 2**32),
        mtime=st.integers(0, 2**36),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(
    entries=ENTRIES, chunk_bytes=st.integers(1, 3000), form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
)
def test_the_size_of_the_chunks_changes_nothing(entries: list[tarfile.TarInfo], chunk_bytes: int, form: int) -> None:
    stream = archive(*entries, form=form)

    found = members(stream)

    assert [(each.name, each.size_bytes, each.mode, each.uid, each.gid, each.mtime) for each in found] == [
        (info.name.encode(), info.size, info.mode, info.uid, info.gid, info.mtime) for info in entries
    ]
    assert scan(stream, chunk_bytes=chunk_bytes) == scan(stream)


def test_a_tar_that_is_cut_anywhere_is_no_tar(tree: Path) -> None:
    stream = gnu_tar(tree, "--format=posix", "--sparse", "--blocking-factor=1")
    end = len(stream) - 1024

    for cut in (0, 511, 512, 1024, end - 512, end, end + 512):
        with pytest.raises(IntegrityError, match="cut after"):
            scan(stream[:cut])


def test_any_flipped_bit_of_a_header_is_seen(tree: Path) -> None:
    stream = bytearray(gnu_tar(tree, "--format=gnu", "--blocking-factor=1"))
    whole = scan(bytes(stream))

    for position in range(512):
        stream[position] ^= 4
        try:
            seen: Evidence | None = scan(bytes(stream))
        except IntegrityError:
            seen = None
        assert seen != whole or position >= 500, position  # the last bytes of a header mean nothing
        stream[position] ^= 4


REFUSED = {
    "absolute name": entry("/etc/passwd"),
    "parent": entry("../escaped"),
    "parent within": entry("a/../../escaped"),
    "parent last": entry("a/.."),
    "parent as a folder": entry("..", tarfile.DIRTYPE),
    "doubled slash": entry("a//b"),
    "dot within": entry("a/./b"),
    "absolute folder": entry("/", tarfile.DIRTYPE),
    "a symlink in the place of the root": entry("./", tarfile.SYMTYPE, linkname="x"),
    "hard link out": entry("a", tarfile.LNKTYPE, linkname="../../etc/shadow"),
    "absolute hard link": entry("a", tarfile.LNKTYPE, linkname="/etc/shadow"),
    "symlink to nothing": entry("a", tarfile.SYMTYPE, linkname=""),
    "outward symlink": entry("a", tarfile.SYMTYPE, linkname="../x"),
    "absolute symlink": entry("a", tarfile.SYMTYPE, linkname="/x"),
    "device": entry("a", tarfile.CHRTYPE, devmajor=1, devminor=1),
    "disk": entry("a", tarfile.BLKTYPE, devmajor=8, devminor=0),
    "fifo": entry("a", tarfile.FIFOTYPE),
    "setuid": entry("a", mode=0o4755),
    "setgid": entry("a", mode=0o2755),
    "capability": entry("a", pax_headers={"SCHILY.xattr.security.capability": "x"}),
    "unknown kind": entry("a", b"V"),
    "multi-volume": entry("a", b"M"),
    "incremental dump": entry("a", b"D"),
}


@pytest.mark.parametrize("info", [pytest.param(info, id=name) for name, info in REFUSED.items()])
def test_what_a_healthy_backup_does_not_hold_is_refused(info: tarfile.TarInfo) -> None:
    with pytest.raises(RestoreRefusedError):
        scan(archive(info), NOTHING)


@pytest.mark.parametrize(
    ("info", "allowed"),
    [
        pytest.param(REFUSED["outward symlink"], {"outward_links": 1}, id="outward symlink"),
        pytest.param(REFUSED["device"], {"devices": 1}, id="device"),
        pytest.param(REFUSED["fifo"], {"fifos": 1}, id="fifo"),
        pytest.param(REFUSED["setuid"], {"setuid": 1}, id="setuid"),
        pytest.param(REFUSED["capability"], {"setuid": 1}, id="capability"),
    ],
)
def test_as_many_as_the_source_had_may_pass_and_no_more(info: tarfile.TarInfo, allowed: Evidence) -> None:
    one, two = archive(info), archive(info, info)

    scan(one, allowed)

    with pytest.raises(RestoreRefusedError, match="surprise"):
        scan(two, allowed)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([entry("a", tarfile.SYMTYPE, linkname="b"), entry("a/x")], id="a file"),
        pytest.param([entry("a", tarfile.SYMTYPE, linkname="b"), entry("a/x/y/z")], id="deeper"),
        pytest.param([entry("a/x"), entry("a", tarfile.SYMTYPE, linkname="b"), entry("a/y")], id="in between"),
        pytest.param(
            [entry("a", tarfile.SYMTYPE, linkname="b"), entry("c", tarfile.LNKTYPE, linkname="a/shadow")],
            id="a hard link's target",
        ),
    ],
)
def test_nothing_is_written_through_a_symlink_of_the_same_archive(entries: list[tarfile.TarInfo]) -> None:
    with pytest.raises(RestoreRefusedError, match="behind a symlink"):
        scan(archive(*entries), NOTHING)


def test_the_offending_chunk_is_refused_before_it_can_be_handed_on() -> None:
    stream = archive(entry("good", size=600), entry("../bad", size=10))
    scanner = TarScanner(NOTHING)
    handed_on = bytearray()

    def hand_on() -> None:
        for begin in range(0, len(stream), 256):
            scanner.feed(memoryview(stream)[begin : begin + 256])
            handed_on.extend(stream[begin : begin + 256])

    with pytest.raises(RestoreRefusedError):
        hand_on()

    assert b"good" in handed_on
    assert b"bad" not in handed_on[: len(handed_on) - 256]
    assert b"bad" not in subprocess.run(["tar", "-t"], input=handed_on, capture_output=True, check=False).stdout


HEADER = archive(entry("a"), form=tarfile.GNU_FORMAT)[:512]


def pax(records: bytes, flag: bytes = b"x") -> bytes:
    header = HEADER[:124] + b"%011o\0" % len(records) + HEADER[136:156] + flag + HEADER[157:]
    return with_checksum(header) + records.ljust(-(-len(records) // 512) * 512, b"\0")


ODD = {
    "a path hidden behind a NUL": pax(b"18 path\0x=../evil\n") + HEADER,
    "a path hidden behind two blanks": pax(b"17  path=../evil\n") + HEADER,
    "an empty path": pax(b"8 path=\n") + HEADER,
    "a length that lies": pax(b"99 path=x\n") + HEADER,
    "a length of nothing": pax(b"0 path=x\n") + HEADER,
    "a record without an end": pax(b"10 path=xy") + HEADER,
    "a record that is no record": pax(b"10 pathxxx\n") + HEADER,
    "a number that is none": pax(b"12 size=1_0\n") + HEADER,
    "two extended headers": pax(b"9 path=x\n") * 2 + HEADER,
    "an extended header and nothing": pax(b"9 path=x\n"),
    "a global name": pax(b"9 path=x\n", b"g") + HEADER,
    "an empty long name": pax(b"\0", b"L") + HEADER,
    "a huge extended header": with_checksum(HEADER[:124] + b"77777777777\0" + HEADER[136:156] + b"x" + HEADER[157:]),
    "a negative size": with_checksum(HEADER[:124] + b"\xff" * 12 + HEADER[136:]),
    "a size that is no number": with_checksum(HEADER[:124] + b"0b000000001\0" + HEADER[136:]),
    "a size that is not octal": with_checksum(HEADER[:124] + b"00000000018\0" + HEADER[136:]),
    "data behind a folder": with_checksum(HEADER[:124] + b"00000001000\0" + HEADER[136:156] + b"5" + HEADER[157:]),
    "a wrong checksum": HEADER[:148] + b"000001\0 " + HEADER[156:],
    "no magic": with_checksum(HEADER[:257] + bytes(8) + HEADER[265:]),
    "a foreign sparse file": with_checksum(HEADER[:156] + b"S" + HEADER[157:257] + b"ustar\x0000" + HEADER[265:]),
    "a lone zero block": bytes(512) + HEADER,
    "data behind the end": HEADER + bytes(1024) + HEADER,
}  # fmt: skip


@pytest.mark.parametrize("stream", [pytest.param(stream, id=name) for name, stream in ODD.items()])
def test_what_two_readers_could_understand_differently_is_refused(stream: bytes) -> None:
    scan(HEADER + bytes(1024), NOTHING)

    with pytest.raises(IntegrityError):
        scan(stream + bytes(1024), NOTHING)


def test_a_comment_for_all_members_is_no_harm() -> None:
    assert scan(pax(b"13 comment=x\n", b"g") + HEADER + bytes(1024), NOTHING)["files"] == 1


def test_a_million_members_cost_no_memory() -> None:
    block = b"".join(archive(entry(f"f{number}", mtime=1.5))[:1536] for number in range(100))
    scanner = TarScanner(NOTHING)
    scanner.feed(memoryview(block))

    tracemalloc.start()
    for _ in range(100):
        scanner.feed(memoryview(block))
    held_bytes, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert scanner.tally.members() == 101 * 100
    assert held_bytes < 64 * 1024


def blocks_of_a_website(count: int) -> Iterator[memoryview]:
    headers = b"".join(
        archive(entry(f"section/page-{number:05d}.html", size=44_000, mtime=1.5))[:1536] for number in range(8)
    )
    body = bytes(44_032)
    group = memoryview(b"".join(headers[at : at + 1536] + body for at in range(0, len(headers), 1536)))
    for _ in range(count // 8):
        yield group


def test_seventeen_thousand_members_cost_less_than_half_a_second() -> None:
    scanner = TarScanner(NOTHING)

    begin = time.process_time()
    for chunk in blocks_of_a_website(17_000):
        scanner.feed(chunk)
    seconds = time.process_time() - begin

    print(f"17,000 members, 0.7 GiB: {seconds:.2f} s of Python")
    assert scanner.tally.counts.files == 17_000
    assert seconds < 1.0  # 0.3 on a quiet machine

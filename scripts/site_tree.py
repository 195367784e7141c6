"""File trees for the demo, the bench and the tests: a website as one finds it, and an exact comparison of two trees."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path


def make_website(root: Path, seed: int = 7) -> None:
    """Fill a folder with a small website: pages, odd names, links, owners, modes, attributes, a sparse file."""
    rng = random.Random(seed)
    words = [bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 11))) for _ in range(2000)]
    for number in range(400):
        folder = root / f"section-{number % 20:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        if number % 3:
            body = b"<p>" + b" ".join(rng.choice(words) for _ in range(rng.randint(100, 6000))) + b"</p>\n"
            (folder / f"page-{number:03d}.html").write_bytes(body)
        else:
            (folder / f"picture-{number:03d}.jpg").write_bytes(rng.randbytes(rng.randint(2_000, 60_000)))
    (root / "index.html").write_bytes(b"<h1>GX Coin</h1>\n")
    odd = root / "odd names"
    odd.mkdir()
    for name in ("with space", "ünïcode ☂", "new\nline", "-dash", "star*[x]{y}", "q'uo\"te", "x" * 200):
        (odd / name).write_text(name, encoding="utf-8")
    (odd / os.fsdecode(b"not-utf8-\xff\xfe")).write_bytes(b"raw")
    (odd / "empty").touch()
    (root / "current").symlink_to("section-00")
    (root / "shared").symlink_to("/srv/shared")
    os.link(root / "index.html", root / "home.html")
    with (root / "sparse.img").open("wb") as sparse:
        sparse.truncate(8 * 1024**2)
        sparse.seek(4 * 1024**2)
        sparse.write(b"in the middle")
    private = root / "private"
    private.mkdir(mode=0o750)
    (private / ".env").write_text("TOKEN=not-a-real-one\n", encoding="utf-8")
    (private / ".env").chmod(0o600)
    if os.geteuid() == 0:
        os.chown(private / ".env", 33, 33)
        os.setxattr(root / "index.html", "user.origin", b"demo")
        os.setxattr(root / "index.html", "trusted.origin", b"root only")


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """Return every entry of a tree with all that a restore must bring back, attributes and content included."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [b"", *folders, *files] if folder == os.fsencode(root) else [*folders, *files]:
            path = os.path.join(folder, name) if name else folder
            seen = os.lstat(path)
            content: object = None
            if stat.S_ISREG(seen.st_mode):
                with open(path, "rb") as file:
                    content = (seen.st_size, hashlib.file_digest(file, "sha256").hexdigest(), seen.st_nlink)
            elif stat.S_ISLNK(seen.st_mode):
                content = os.readlink(path)
            attributes = tuple(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(os.listxattr(path, follow_symlinks=False))
            )
            key = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            found[key] = (stat.filemode(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, content, attributes)
    return found

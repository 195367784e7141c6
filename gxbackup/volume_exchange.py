"""
What a stopped server's volume holds is exchanged for what was restored beside it, by plain shell in any place.

    FOLDER/.gxbackup-new           what is being restored
    FOLDER/.gxbackup-before-TIME   what was there: moved, never copied; the safety copy, and never in a backup

All moves are renames within one filesystem. Killed between any two of them, `recover` puts the old content back, whole.
Asks no cluster, and knows no data type.
"""

from __future__ import annotations

from pathlib import Path

from gxbackup import clock
from gxbackup.errors import BackupError, CommandError, RestoreError, RestoreRefusedError, words
from gxbackup.ports import Place

OURS = ".gxbackup-"
NEW = f"{OURS}new"
UNDO = f"{OURS}undo"
SPARE_BYTES = 16 * 1024**2
MOVE_TIMEOUT_SECONDS = 600
UNPACK_TIMEOUT_SECONDS = 24 * 3600
# `.gxbackup-moved` names where the content that is being moved in comes from, once all of the old one lies in `-undo`.
_EACH = """cd "$1" || exit 1
each() {  # COMMAND: for every entry that is not ours
    for entry in * .[!.]* ..?*; do
        case $entry in .gxbackup-*|lost+found) continue ;; esac
        if [ -e "$entry" ] || [ -L "$entry" ]; then "$@" "$entry" || exit 1; fi
    done
}
into() { mv "$2" "$1/"; }
"""
_RECOVER = (
    _EACH
    + """
[ -d .gxbackup-undo ] || { rm -f .gxbackup-moved; exit 0; }
if [ -e .gxbackup-moved ]; then
    from=$(cat .gxbackup-moved)
    mkdir -p "$from" && each into "$from" && rm .gxbackup-moved || exit 1
fi
top=$(pwd -P)
(cd .gxbackup-undo && each into "$top") && rmdir .gxbackup-undo && sync && echo recovered"""
)
_EXCHANGE = (
    _EACH
    + """
from=$2 before=$3
mkdir -m 700 .gxbackup-undo && each into .gxbackup-undo || exit 1
echo "$from" >.gxbackup-noted && sync && mv .gxbackup-noted .gxbackup-moved || exit 1
top=$(pwd -P)
(cd "$from" && each into "$top") && sync && mv .gxbackup-undo "$before" && rm .gxbackup-moved && rmdir "$from"
"""
)
# tar stops reading at its two zero blocks; what pads them is input too.
_UNPACK = 'tar "$@"; status=$?; cat >/dev/null; exit "$status"'


class VolumeExchange:
    """One folder of a stopped server, in a place that can write it."""

    def __init__(self, place: Place, folder: str) -> None:
        self.place = place
        self.folder = folder
        self.before = f"{OURS}before-{clock.now():%Y%m%dT%H%M%SZ}"

    def prepare(self, needed_bytes: int) -> str:
        """
        Put back what a killed restore left half moved, and make the empty folder to restore into; return its path.

        Raises: RestoreRefusedError where there is no room for that beside what is there.
        """
        self.recover()
        self.discard()  # what a killed restore left half unpacked: it takes room
        free_bytes = 1024 * int(self._shell('df -Pk "$1" | tail -n 1 | tr -s " " | cut -d " " -f 4') or 0)
        if free_bytes < needed_bytes + SPARE_BYTES:
            raise RestoreRefusedError(
                f"{self.place.name}: {self.folder}: needs {needed_bytes} bytes and some to spare, "
                f"seen {free_bytes} free",
                f"older safety copies ({OURS}before-…) in it may be in the way",
            )
        self._shell(f'cd "$1" && mkdir -m 700 {NEW}')
        return f"{self.folder}/{NEW}"

    def unpack(self, tar: Path) -> None:
        """Unpack a tar, already vetted, into what `prepare` made."""
        argv = ["sh", "-c", _UNPACK, "sh", "-C", f"{self.folder}/{NEW}", "-xpf", "-"]
        self.place.write(argv, tar, timeout_seconds=UNPACK_TIMEOUT_SECONDS)

    def exchange(self) -> str:
        """Put the restored content in place; return where the old one lies now. On failure all is as it was."""
        self._move(NEW, self.before)
        return f"{self.folder}/{self.before}"

    def put_back(self) -> None:
        """Undo `exchange`: the old content is in place again, and what was restored is gone."""
        failed = f"{OURS}failed"
        self._shell(f'cd "$1" && rm -rf {failed}')
        self._move(self.before, failed)
        self._shell(f'cd "$1" && rm -rf {failed}')

    def recover(self) -> bool:
        """Put back what was half moved when an exchange was killed; tell whether there was such a thing."""
        return self._shell(_RECOVER) == "recovered"

    def undo(self, *, exchanged: bool) -> None:
        """Put the old content in its place, exchanged or half moved; what was restored is gone."""
        if exchanged:
            self.put_back()
        else:
            self.recover()
        self.discard()

    def left_stopped(
        self, label: str, claim: str, error: BaseException, worse: BackupError, *, exchanged: bool
    ) -> RestoreError:
        """Return what a person must know where `undo` failed after another error: nothing may be started on this."""
        return RestoreError(
            f"{label}: {words(error)}; and what was there could not be put back: {worse.message}",
            f"it is stopped: start it on nothing else; its old content lies in "
            f"{self.before if exchanged else UNDO} on claim {claim}",
            *([] if exchanged else ["start this restore again: it first puts that back"]),
        )

    def discard(self) -> None:
        """Remove what was restored but never put in place."""
        self._shell(f'cd "$1" && rm -rf {NEW}')

    def _move(self, come_from: str, before: str) -> None:
        try:
            self._shell(_EXCHANGE, come_from, before)
        except CommandError as error:
            self.recover()
            raise RestoreError(
                f"{self.folder}: its content could not be exchanged, and is as it was: {error.message}"
            ) from None

    def _shell(self, script: str, *words: str) -> str:
        argv = ["sh", "-c", script, "sh", self.folder, *words]
        return self.place.run(argv, timeout_seconds=MOVE_TIMEOUT_SECONDS).text()

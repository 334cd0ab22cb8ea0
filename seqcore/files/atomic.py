"""Files that are written whole or not at all, and locks.

(1) The data goes to a temporary file beside its place, locked by its writer.
(2) It is synced to the disk.
(3) The file is renamed to its place, and the folder is synced.

So a crash leaves the old file or the new one, never half of one. The next write to the same
place removes the temporary files of writers that were killed: if a file can be locked, its writer
is gone.

The place is where a link points to, and the link stays. Only a file is ever replaced: not a folder,
a pipe or a device.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file at `path` by one with `data`, or leave it as it is.

    If `path` is a link, the file that it points to is replaced.

    Raises
    ------
    OSError
        If writing fails, or something else than a file is there; the error names `path`.
    """
    path = Path(path)
    try:
        place = _place(path)
        _sweep(place)
        _write(place, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def lock(path: str | os.PathLike[str]) -> int | None:
    """Lock a file or folder until the returned descriptor is closed or the process ends.

    Returns
    -------
    int or None
        The descriptor; None if the system or the file system has no such locks.

    Raises
    ------
    BlockingIOError
        If the lock is held already, as by another process.
    """
    try:
        import fcntl  # POSIX only
    except ImportError:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # some network file systems
        os.close(descriptor)
        return None
    return descriptor


def _place(path: Path) -> Path:
    """Return where the file is that `path` names, through all links.

    Raises
    ------
    OSError
        If it is not a file, or links point to each other.
    """
    place = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return place
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    # A link of the system may lead to a file without a name, which can't be replaced.
    if not stat.S_ISREG(mode) or not place.samefile(path):
        raise OSError(errno.EINVAL, "Not a regular file, which is all that is replaced")
    return place


def _write(path: Path, data: bytes) -> None:
    kept = _mode(path)
    handle, temporary = _create(path, kept)
    held = None
    try:
        with os.fdopen(handle, "wb") as file:
            held = lock(temporary)
            file.write(data)  # (1)
            file.flush()
            os.fsync(file.fileno())  # (2)
        if kept is not None and _mode(temporary) != kept:
            temporary.chmod(kept)
        temporary.replace(path)  # (3)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if held is not None:
            os.close(held)
    if os.name == "posix":  # other systems can't open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mode(path: Path) -> int | None:
    """Return the mode of the file at `path`; None if there is no such file."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _create(path: Path, kept: int | None) -> tuple[int, Path]:
    """Create a temporary file for `path`; return its descriptor and its place.

    A new file gets the mode that `open` would give it. The kernel applies the umask of the
    process, or what the folder says in its place; asking for the umask would change it for all
    threads. A file that replaces one of mode `kept` is never open to more than that one.
    """
    mode = 0o666 if kept is None else kept & 0o777 | 0o600  # ours to write and to lock
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # it is Windows's
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with suppress(FileExistsError):
            return os.open(temporary, flags, mode), temporary


def _sweep(path: Path) -> None:
    """Remove the temporary files of `path` whose writers were killed."""
    name = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}")  # as mkstemp names them too
    for file in path.parent.iterdir():
        if not (name.fullmatch(file.name) and file.is_file()):
            continue
        with suppress(OSError):  # another process may be writing it, or has removed it by now
            # A writer locks its file before the first byte: an empty file may not be locked yet.
            held = lock(file) if file.stat().st_size else None
            if held is not None:
                os.close(held)
                file.unlink()

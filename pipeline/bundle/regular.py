"""Open regular files below a directory without ever following a symbolic link."""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

_READ = os.O_RDONLY | os.O_CLOEXEC


@contextlib.contextmanager
def open_regular(root: Path, name: str) -> Iterator[io.BufferedReader]:
    """Open ``root/name`` to read; ``root`` itself may be reached through a link.

    Every directory on the way is opened from the one before, so that nothing can be swapped for a
    link between the check and the opening.

    Raises:
        OSError: missing, unreadable, no regular file, or a link on the way; ``strerror`` says what.
    """
    *directories, last = name.split("/")
    with contextlib.ExitStack() as stack:
        parent = open_directory(root, directories)
        stack.callback(os.close, parent)
        stream = os.fdopen(_open_at(parent, last, _READ | os.O_NONBLOCK), "rb")
        stack.enter_context(stream)
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield stream


def open_directory(root: Path, names: Sequence[str]) -> int:
    """Return a descriptor of the directory that the names lead to from ``root``.

    Raises:
        OSError: as ``open_regular``.
    """
    parent = os.open(root, _READ | os.O_DIRECTORY)
    for name in names:
        try:
            below = _open_at(parent, name, _READ | os.O_DIRECTORY)
        finally:
            os.close(parent)
        parent = below
    return parent


def _open_at(parent: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(parent, name):
            raise OSError(errno.ELOOP, f"{name} is a symbolic link") from None
        raise


def _is_link(parent: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(name, dir_fd=parent).st_mode)
    except OSError:
        return False


def read_regular(root: Path, name: str, *, most: int) -> bytes:
    """Return a file's bytes.

    Raises:
        OSError: as ``open_regular``, or there are more than ``most`` bytes.
    """
    with open_regular(root, name) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most / 2**20:g} MiB")
    return content

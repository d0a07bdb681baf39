"""What a user can put right."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)  # There is no room.
_REFUSED = (*FULL, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


class LabError(Exception):
    """A message for the user, one line, that names the problem and, where there is one, the remedy."""


def refusal(error: BaseException) -> OSError | None:
    """Find the system's refusal to write among an error and those that led to it: PyTorch reports it as its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _REFUSED:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message, or what kind of error it is where there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

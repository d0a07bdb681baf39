"""What a user can put right."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)  # There is no room.
_REFUSED = (*_FULL, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


class LabError(Exception):
    """A message for the user, one line, that names the problem and, where there is one, the remedy."""


class OwnError(LabError):
    """What a user's own code raised: the traceback of its cause says where."""


def own_code(where: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a user's own code, and name it, such as ``--data module:factory``, beside what it raises."""
    try:
        return call(*arguments, **named)
    except Exception as error:
        raise OwnError(f"{where} raised {traceback.format_exception_only(error)[-1].splitlines()[0]}") from error


def refusal(error: BaseException) -> OSError | None:
    """Find the system's refusal to write among an error and those that led to it: PyTorch reports it as its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _REFUSED:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def unwritable(refused: OSError, path: object) -> LabError:
    """Say what the system refused to write, and what to do about it."""
    if refused.errno in _FULL:
        return LabError(f"no space left to write {path}: make room and give the command again; what is done stays")
    return LabError(f"cannot write to {path} ({refused.strerror}): make it writable, or use another folder")


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message, or what kind of error it is where there is none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

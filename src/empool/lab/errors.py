"""What a user can put right."""

from __future__ import annotations

import errno


class LabError(Exception):
    """A message for the user, one line, that names the problem and, where there is one, the remedy."""


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error, or one that led to it, says that nothing more can be written."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        cause = cause.__cause__ or cause.__context__
    return False

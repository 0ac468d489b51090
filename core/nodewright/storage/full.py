"""What the operating system says of a file that cannot be written, as the contract's error with the fix."""

from __future__ import annotations

import errno
from pathlib import Path

from nodewright.errors import StoreError, StoreFull

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_error(error: OSError, path: Path, fix: str = "check the disk, and the folder's owner and mode") -> StoreError:
    """``fix`` is for what is no lack of space."""
    if error.errno in NO_SPACE:
        return StoreFull(f"{path}: the disk is full; make room")
    return StoreError(f"{path} cannot be written ({error.strerror or error}); {fix}")

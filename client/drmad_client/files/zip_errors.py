"""What zipfile raises when it reads an archive that is damaged, or made to do harm."""

from __future__ import annotations

import zipfile
import zlib

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,  # a place before the beginning of the file
    RuntimeError,  # encrypted
    NotImplementedError,  # another compression
)

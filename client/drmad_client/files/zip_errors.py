"""The exceptions that zipfile raises for an archive that is damaged or malicious."""

from __future__ import annotations

import zipfile
import zlib

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,  # an offset before the beginning of the file
    RuntimeError,  # an encrypted file
    NotImplementedError,  # an unsupported compression
)

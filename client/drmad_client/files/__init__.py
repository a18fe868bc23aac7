"""Files that users upload: code archives and array files, opened without running anything."""

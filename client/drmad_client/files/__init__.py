"""Files that users upload: code archives and array files. Reading them runs none of their code."""

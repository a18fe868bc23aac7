"""How flows and programs run: httpx clients, sleeping, progress."""

"""`drmad doctor`: examines an installation and advises on what to fix."""

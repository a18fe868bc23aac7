"""The dashboard: templates, static files, and what fills them. routes/pages.py has its routes."""

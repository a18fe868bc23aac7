"""The dashboard renders pages and serves static files; api/routes/pages.py has its routes."""

"""The dashboard: pages and static files. Its routes are in api/routes/dashboard/pages.py."""

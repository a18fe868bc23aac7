"""The REST API: routes, authentication, limits and error responses."""

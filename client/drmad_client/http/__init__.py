"""The SDK over HTTP: clients, requests, retries, event streams, uploads and job handles."""

"""The jobs in the store: requests of clients and of schedulers, and what a job keeps."""

"""Large results and uploads in an artifact store: a folder, S3, Google Cloud Storage or Azure."""

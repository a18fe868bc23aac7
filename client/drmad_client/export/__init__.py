"""Results in other formats: files, plain PyTorch, MLflow, TensorBoard."""

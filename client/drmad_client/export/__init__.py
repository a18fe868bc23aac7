"""Results in other forms: files, comparisons, plain PyTorch, MLflow and TensorBoard."""

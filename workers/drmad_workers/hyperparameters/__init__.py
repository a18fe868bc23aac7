"""The kinds of hyperparameters, one a file, and how each enters the training."""

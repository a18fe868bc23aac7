"""drmad: tune thousands of hyperparameters of a PyTorch model by gradient, as a service."""

__version__ = "0.1.0.dev0"

"""Training from scratch with tuned hyperparameters, beside the untuned ones."""

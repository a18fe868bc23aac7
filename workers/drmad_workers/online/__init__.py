"""One training run whose hyperparameters move after every window of it."""

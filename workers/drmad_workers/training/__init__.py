"""The inner problem: optimizers, the training run, its progress."""

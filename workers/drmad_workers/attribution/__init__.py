"""What every training example adds to the losses of queries, by one backward pass."""

"""What is kept of the training trajectory for the backward pass."""

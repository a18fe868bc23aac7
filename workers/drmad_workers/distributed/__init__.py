"""One training run that several workers share: rows are split, derivatives are summed."""

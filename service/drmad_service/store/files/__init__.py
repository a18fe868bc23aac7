"""Files that users upload: code, data sets and weights, named by digest."""

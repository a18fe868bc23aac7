"""Examples, minibatches and shards."""

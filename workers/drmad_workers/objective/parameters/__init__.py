"""The weights of a model as one vector: how they are laid out, drawn and carried."""

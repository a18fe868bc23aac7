"""The client's own commands, by subject; each module registers its own."""

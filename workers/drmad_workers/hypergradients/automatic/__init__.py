"""The method `auto`: what it tries, measures and chooses."""

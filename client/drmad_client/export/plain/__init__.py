"""The parts of recipe.py: plain PyTorch, which is written into one file and needs no drmad."""

"""What the engine adds to autograd: forward passes without constants, traces, recordings."""

"""drmad: tune thousands of hyperparameters of a PyTorch model by gradient, as a service."""

import lazy_loader

__version__ = "0.1.0.dev0"

# The stub beside this file lists the public names; each is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

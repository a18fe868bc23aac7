"""drmad's engine: hypergradients of a PyTorch training run, without Ray, Redis or HTTP."""

import lazy_loader

# The stub beside this file lists the public names; importing the package loads no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

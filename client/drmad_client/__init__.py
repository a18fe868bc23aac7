"""drmad: tune thousands of hyperparameters of a PyTorch model by gradient, as a service."""

import lazy_loader

from drmad_client.version import __version__ as __version__

# The stub beside this file lists the public names; each is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

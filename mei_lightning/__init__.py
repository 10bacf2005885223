"""Maximally exciting inputs of frozen retina models, on PyTorch Lightning."""

import lazy_loader

# The names are those of __init__.pyi, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"

"""openretina's names, with its arguments, for notebooks and scripts that only change their imports."""

import lazy_loader

# The names are those of __init__.pyi, where type checkers read them too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

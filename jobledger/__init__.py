"""Jobledger: an event-sourced store for the state of jobs.

`__init__.pyi` lists the public names. A name is imported when it is first used: the command line starts fast.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

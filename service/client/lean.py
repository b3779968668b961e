"""httpx without the command line that it imports with itself if it can: half of the time of our start."""

import sys
from types import ModuleType
from typing import Final

_THEIR_COMMAND: Final = "httpx._main"  # and with it rich and pygments; `import httpx` does without it
_modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None: not to be imported

_modules.setdefault(_THEIR_COMMAND, None)
import httpx  # noqa: E402

if _modules[_THEIR_COMMAND] is None:  # whoever wants it later still gets it
    del _modules[_THEIR_COMMAND]

__all__ = ["httpx"]

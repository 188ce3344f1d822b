"""HTTP on a model: OpenAI's API over the scheduler, and a page to try it on. Needs the extra `serve`.

Imports everything below; `commands/serve.py` runs it.
"""

from .app import create_app
from .settings import Settings

__all__ = ["Settings", "create_app"]

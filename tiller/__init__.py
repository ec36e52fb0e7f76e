"""Tiller from Python: chat, steer, compare, find features and follow jobs over HTTP, in the same words with and without `await`.

Knows the API's addresses and shapes; nothing of models, of the server's insides or of the page.
"""

from tiller.async_client import AsyncTiller
from tiller.errors import TillerError
from tiller.sync_client import Tiller

__all__ = ["AsyncTiller", "Tiller", "TillerError"]

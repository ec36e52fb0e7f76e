"""Tiller from Python: chat, steer, compare, find features and follow jobs over HTTP, in the same words with and without `await`.

Knows the API's addresses and shapes; nothing of models, of the server's insides or of the page.
"""

from client.async_tiller import AsyncTiller
from client.errors import TillerError
from client.tiller import Tiller

__all__ = ["AsyncTiller", "Tiller", "TillerError"]

"""What each route answers, as schemas: for those who read `/docs`, and for the test that holds answers against them. Checks nothing itself.

A field with a default is one that may be left out.
"""

from server.answers import analysis, chat, features, kept, lists, saes, service

__all__ = ["analysis", "chat", "features", "kept", "lists", "saes", "service"]

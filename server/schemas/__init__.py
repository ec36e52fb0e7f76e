"""What each route answers, as schemas: for those who read `/docs`, and for the test that holds answers against them. Checks nothing itself.

A field with a default is one that may be left out.
"""

from server.schemas import analysis, completions, features, pages, saes, service, user_data

__all__ = ["analysis", "completions", "features", "pages", "saes", "service", "user_data"]

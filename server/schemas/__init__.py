"""Request and response models of the API, used by the routes and shown in `/docs`.

A field with a default may be missing from the response.
"""

from server.schemas import analysis, completions, features, pages, saes, service, user_data

__all__ = ["analysis", "completions", "features", "pages", "saes", "service", "user_data"]

"""The FastAPI application: middleware, routes, errors, server-sent events and the OpenAPI document."""

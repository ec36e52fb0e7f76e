"""ASGI middleware, in this order: request log, tracing, CORS, gateway, authentication, error shape."""

"""The listening socket of the server, and the address that a browser reaches it at."""

import errno
import socket

from server.settings import Settings


def bind_socket(settings: Settings) -> socket.socket:
    """Listen on the configured host and port. Raises OSError that names the port and the way out."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        taken = f"port {settings.port} is taken; stop what uses it or choose another with --port"
        other = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        raise OSError(taken if error.errno == errno.EADDRINUSE else other) from error
    return listening


def browser_host(host: str) -> str:
    """The host as a browser on this machine reaches it: 127.0.0.1 for 0.0.0.0."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host

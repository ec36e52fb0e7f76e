"""The page. Speaks HTTP to the server's public API and imports neither `server` nor `steering`."""

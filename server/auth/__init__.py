"""Authentication: API keys, roles, sessions, callers and the audit log."""

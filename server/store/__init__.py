"""Stores: what outlives a restart. One protocol, one file per store."""

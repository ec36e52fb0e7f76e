"""Rate limits, quotas and concurrency leases of each key."""

"""Safety: content probes and refusal detection."""

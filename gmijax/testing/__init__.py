"""Tools for tests, ours and our users': oracles, parity, tiny models."""

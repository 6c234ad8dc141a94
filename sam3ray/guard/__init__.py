"""Protects inputs and outputs: addresses, secrets, JSON, YAML, unusual characters, bytes that only a helper reads."""

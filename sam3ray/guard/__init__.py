"""Guards what comes in and goes out: addresses, secrets, JSON and YAML, odd characters, and bytes that only a helper
reads.
"""

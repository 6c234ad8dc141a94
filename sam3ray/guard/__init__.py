"""What comes from outside and what goes out: addresses, secrets, JSON, odd letters, bytes that only a helper reads."""

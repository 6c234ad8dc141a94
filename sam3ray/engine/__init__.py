"""SAM 3 on video: the only package that knows transformers' internals. `rules` lists what is done differently, and why."""

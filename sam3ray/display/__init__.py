"""Output for people: tables and sentences in a terminal, HTML in a notebook, colours of objects, readable numbers."""

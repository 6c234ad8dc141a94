"""The command's own streams: what people see, what a signal does."""

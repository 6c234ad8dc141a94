"""Faults that others raise, explained: of the machine (memory, disk, GPU) and of a store."""

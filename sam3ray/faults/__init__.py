"""Explains errors of other libraries: faults of the machine (memory, disk, GPU) and of a store."""

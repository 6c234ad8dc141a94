"""Values that many packages share: clips, prompts, annotations, and the rules for names. Reads nothing."""

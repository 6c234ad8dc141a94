"""Values that many modules share: clips, prompts, annotations, and the rules of their names. Nothing is read here."""

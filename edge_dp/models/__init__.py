"""Students, their registry and checkpoints."""

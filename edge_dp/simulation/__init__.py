"""From procedural scenes to dual-pixel captures and stereo pairs."""

"""Teachers: networks and algorithms that see more than a dual-pixel camera does."""

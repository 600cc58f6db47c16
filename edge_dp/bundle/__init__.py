"""The bundle: manifest, golden vectors, checksums."""

"""One file per format, and the export that writes a bundle of all."""

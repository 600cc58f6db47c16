"""The version of edge_dp, in a module of its own so that packaging and bundles read it without importing anything."""

VERSION = "0.1.0"

"""Blame: finds the first layer at which an artifact leaves the converted graph.

The artifact is written once more with every activation as an output (``taps``, one file per format) and executed by its ordinary
engine. The converted graph is made from the model and the bundle's own table of ranges (``reference``), and each of its layers is
run on what the artifact holds of that layer's inputs (``search``).
"""

from __future__ import annotations

from edge_dp.converters.blame.find import blame, reference_graph

__all__ = ["blame", "reference_graph"]

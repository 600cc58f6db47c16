"""What a prediction is judged by."""

from edge_dp.metrics.affine import ai1, ai2, one_minus_abs_spearman

__all__ = ["ai1", "ai2", "one_minus_abs_spearman"]

"""What a prediction is judged by: affine-invariant scores and their published protocols, stereo and metric depth."""

from edge_dp.metrics.affine import ai1, ai2, one_minus_abs_spearman
from edge_dp.metrics.depth import abs_rel, delta, log_rmse, rmse, sq_rel
from edge_dp.metrics.protocols import PROTOCOLS, Protocol, evaluate, protocol_named
from edge_dp.metrics.stereo import bad_px, d1, epe

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "abs_rel",
    "ai1",
    "ai2",
    "bad_px",
    "d1",
    "delta",
    "epe",
    "evaluate",
    "log_rmse",
    "one_minus_abs_spearman",
    "protocol_named",
    "rmse",
    "sq_rel",
]

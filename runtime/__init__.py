"""Engines, parity, latency, reports and the predictor."""

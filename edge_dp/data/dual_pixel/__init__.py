"""Readers of dual-pixel data sets: one file per set, which says source, licence, layout, units, sign and axis.

``edge_dp.data.registry`` lists them, and the readers of light fields, scenes and simulated captures beside them.
"""

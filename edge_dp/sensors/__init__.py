"""Sensor profiles: how the files of a dual-pixel sensor are read, and the optics that relate disparity to depth."""

from edge_dp.sensors.profile import RightGain, SensorProfile, list_sensors, load_sensor

__all__ = ["RightGain", "SensorProfile", "list_sensors", "load_sensor"]

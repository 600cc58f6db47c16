"""Sensor profiles: how the files of a dual-pixel sensor are read, and the optics that relate disparity to depth."""

from edge_dp.sensors.profile import FieldPolynomial, Noise, SensorProfile, list_sensors, load_sensor
from edge_dp.sensors.psf_field import PsfField

__all__ = ["FieldPolynomial", "Noise", "PsfField", "SensorProfile", "list_sensors", "load_sensor"]

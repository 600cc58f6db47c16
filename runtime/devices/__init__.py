"""Machines that run artifacts: this one, boards behind ssh, phones behind adb, emulated phones."""

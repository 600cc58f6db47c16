"""Errors that edge_dp raises on purpose. The CLI prints their message alone, without a traceback, and exits with their code.

A message says where, what was expected, what was found and what to do, in one line.
"""

from __future__ import annotations


class EdgeDpError(Exception):
    """Base of every error raised by edge_dp. ``exit_code`` is what the command line exits with."""

    exit_code = 2


class InputError(EdgeDpError):
    """A file, array or argument given by the user is missing, malformed or contradicts what was promised about it."""


class ChecksumError(InputError):
    """A file of a bundle or checkpoint differs from the one that was written: truncated, edited or swapped."""


class OpticsError(InputError):
    """A depth, focus distance or lens for which the optics have no answer."""


class SchemaError(InputError):
    """A manifest, recipe, profile or report does not follow its schema, or follows a newer one than this version reads."""


class MissingExtraError(EdgeDpError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class EngineError(EdgeDpError):
    """An engine could not load or execute an artifact."""


class DeviceError(EdgeDpError):
    """A device cannot be reached, has gone, is full, or lacks what is asked of it."""


class ExportError(EdgeDpError):
    """A model could not be turned into an artifact, or the artifact is not what was asked for."""


class TrainingError(EdgeDpError):
    """Training cannot start, continue or be resumed."""


class GateError(EdgeDpError):
    """Everything ran, but a threshold was missed. Exit code 1, to tell a failed gate from bad input."""

    exit_code = 1

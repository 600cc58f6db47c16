"""Silence for toolchains that talk to the terminal from Python, logging and C++ alike."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send everything printed in the block to nowhere: standard output and error of the whole process, logging, warnings.

    Exceptions pass. The redirection is of the process's file descriptors, since converters print from C++ too; keep other
    threads from printing meanwhile.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in saved:
            os.dup2(nowhere, descriptor)
        # Some C++ prints through Python's own streams, which need not be the process's.
        sink = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)
        logging.disable(disabled)

"""Where an agent runs: in a Python environment of this machine, or on a device that has Python."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from edge_dp.errors import DeviceError
from edge_dp.runtime import agent
from edge_dp.runtime.devices.base import Device
from edge_dp.runtime.engines.environments import Environment
from edge_dp.runtime.engines.limits import Limits
from edge_dp.runtime.engines.worker import Worker, WorkerError

AGENT = Path(agent.__file__)


class Place(ABC):
    """Starts agents."""

    name: str

    @abstractmethod
    def start(self) -> Worker:
        """A new agent process.

        Raises:
            DeviceError: it cannot be started there.
        """

    @abstractmethod
    def path_of(self, artifact: Path) -> str:
        """How the agent finds ``artifact``, which is put there first where need be; DeviceError where it cannot be."""

    def hello(self, limits: Limits | None = None) -> dict[str, Any]:
        """What an agent says of itself there: versions, machine, processor features, engines with the reason against each.

        Raises:
            DeviceError: none answers.
        """
        worker = self.start()
        try:
            reply, _ = worker.ask({"op": "hello"}, {}, (limits or Limits()).seconds)
        except WorkerError as error:
            raise DeviceError(f"{self.name}: the agent does not work there: {error}") from error
        finally:
            worker.close()
        if reply.get("protocol") != agent.PROTOCOL or not isinstance(reply.get("engines"), dict):
            raise DeviceError(f"{self.name}: expected an agent of protocol {agent.PROTOCOL}, found {str(reply)[:200]}")
        return reply


class Here(Place):
    """The machine that the SDK runs on.

    Args:
        environment: whose Python runs the agent, made first where it is not there yet; the SDK's own unless given.
    """

    name = "this machine"

    def __init__(self, environment: Environment | None = None) -> None:
        self._environment = environment

    def start(self) -> Worker:  # noqa: D102
        python = self._environment.python() if self._environment else sys.executable
        arguments = [python, str(AGENT)]
        pipe = subprocess.PIPE
        try:
            return Worker(lambda: subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0))
        except OSError as error:
            raise DeviceError(f"{python}: the agent cannot be started: {error.strerror or error}") from error

    def path_of(self, artifact: Path) -> str:  # noqa: D102
        return str(artifact.absolute())


class OnDevice(Place):
    """A device; open.

    Args:
        device: has Python with numpy and the engine.
    """

    def __init__(self, device: Device) -> None:
        self._device, self.name = device, device.address

    def start(self) -> Worker:  # noqa: D102
        python = self._device.facts().python
        if python is None:
            raise DeviceError(
                f"{self.name}: expected Python with numpy and the engine, found no Python there. Use the engine "
                "executorch-native, which needs none."
            )
        arguments = [python, self._device.push(AGENT)]
        return Worker(lambda: self._device.spawn(arguments))

    def path_of(self, artifact: Path) -> str:  # noqa: D102
        return self._device.push(artifact)

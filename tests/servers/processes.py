"""The service's own processes, as an operator runs them: started, killed without warning, started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout


@dataclass
class Service:
    """One ``ics`` process. ``health`` is asked until it answers 204."""

    role: str
    config: Path
    environment: Mapping[str, str]
    health: str
    log: Path
    starts: int = 0
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """0 before the first start."""
        return 0 if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Does nothing while it runs: a restart and a wait for readiness may both find it dead."""
        async with self._starting:
            if self.running:
                return
            self.starts += 1
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "cli.main", self.role, "--config", str(self.config)),
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.environment},
                )

    async def ready(self, within: float = 120) -> None:
        """Wait until the process is healthy.

        Raises:
            TimeoutError: it is not within ``within`` seconds; its log tells why.
        """
        async with asyncio.timeout(within), ClientSession(timeout=ClientTimeout(total=3)) as session:
            while True:
                try:
                    async with session.get(self.health) as answer:
                        if answer.status == 204:
                            return
                except (ClientError, TimeoutError):
                    if not self.running:
                        await self.start()
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL: no handler runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def restart(self) -> None:
        """Wait for the dead process and start a new one."""
        if self._process is not None:
            await self._process.wait()
        await self.start()

    async def stop(self) -> None:
        """SIGTERM, as an orchestrator does; SIGKILL after a minute."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(60):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

"""The app's Node processes and what keeps them running: an instance that ends is started again on its port."""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

SCRIPT = Path(__file__).with_name("instance.js")
HEAP_MB = 225


class Instance:
    """One Node process on one port; ``tag`` on its command line says whose it is. It leaks on after a heap death."""

    def __init__(self, tag: str, folder: Path, *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._words = ["node", *flags, str(SCRIPT), tag, str(self.port)]
        self._folder, self._closing, self._leaks = folder, False, False
        self.starts = 0
        self._process = self._spawn()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        # A pipe that nobody writes to: it ends when this process does, however that happens.
        return subprocess.Popen(
            self._words, cwd=self._folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _keep(self) -> None:
        while True:
            ended = self._process.wait()
            if self._closing:
                return
            self._process = self._spawn()
            self._leaks &= ended != -signal.SIGTERM
            if self._leaks:
                self.ask("/leak")

    @property
    def pid(self) -> int:
        return self._process.pid

    def answers(self) -> bool:
        """Whether it answers on its port now."""
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2)
            return True
        return False

    def ask(self, path: str) -> None:
        """Send it a request once it is up: ``/leak`` and ``/warm`` set off what their names say."""
        deadline = time.monotonic() + 30
        while not self.answers() and not self._closing:
            if time.monotonic() > deadline:
                raise TimeoutError(f"node on port {self.port} does not answer")
            time.sleep(0.05)
        self._leaks |= path == "/leak"
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    def close(self) -> None:
        """End it for good."""
        self._closing = True
        self._process.kill()
        self._keeper.join(5)
        if self._process.stdin is not None:
            self._process.stdin.close()


class Fleet:
    """``with Fleet() as fleet``: two instances of the app, and one process that only resembles them.

    Without Node on this machine it is empty, ``there`` is False, and no setting is made.
    """

    def __init__(self) -> None:
        self.there = shutil.which("node") is not None
        self.tag = f"demo-{secrets.token_hex(6)}"
        self.instances: list[Instance] = []

    def __enter__(self) -> Fleet:
        self._made = tempfile.TemporaryDirectory(prefix="runbook-node-", ignore_cleanup_errors=True)
        folder = Path(self._made.name)
        if self.there:
            flags = (f"--max-old-space-size={HEAP_MB}", "--heapsnapshot-signal=SIGUSR2")
            self.instances = [Instance(self.tag, folder, *flags), Instance(self.tag, folder)]
            self.stranger = Instance(f"not-{self.tag}", folder)
            for one in [*self.instances, self.stranger]:
                one.ask("/")
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for one in [*self.instances, *([self.stranger] if self.there else [])]:
            one.close()
        self._made.cleanup()

    @property
    def snapshots(self) -> list[Path]:
        """The heap snapshots its instances left."""
        return sorted(Path(self._made.name).glob("*.heapsnapshot"))

    def env(self) -> Mapping[str, str]:
        """How a runbook knows these processes, restarts one, and asks whether they are well."""
        if not self.there:
            return {}
        return {
            "RUNBOOK_APP_MATCH": rf"{re.escape(SCRIPT.name)} {self.tag} \d+",
            "RUNBOOK_RESTART_COMMAND": 'sh -c "kill -TERM $1" restart {pid}',
            "RUNBOOK_HEALTH_URL": f"http://127.0.0.1:{self.instances[0].port}/",
        }

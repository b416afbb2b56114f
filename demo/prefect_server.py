"""A Prefect server and its workers, as README and deployments/deploy.sh set them up, on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from demo.signals import check, uninterrupted

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
POOL = "runbook"


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prefect:
    """A Prefect server on the database ``url`` and process workers, in a folder of their own."""

    def __init__(self, folder: Path, env: dict[str, str], database_url: str) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        quiet = {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_API_DATABASE_CONNECTION_URL": database_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_V2_ENABLED": "false",  # Prefect's new pages cannot resume a run that waits for a person
            "PREFECT_CLI_WELCOME_MESSAGE": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            # Prefect's runner uses one folder below the shared temporary one: it belongs to whoever came first.
            "TMPDIR": str(folder / "tmp"),
        }
        # Whoever starts this may have a Prefect of their own in the environment: it is neither used nor touched.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.env = {**inherited, **env, **quiet}
        (folder / "tmp").mkdir(exist_ok=True)
        self._processes: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> str:
        """Run one ``prefect`` command to its end and return what it said; raises with its output when it fails."""
        done = subprocess.run(
            [str(BIN / "prefect"), *words], env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=180
        )
        if done.returncode:
            raise RuntimeError(f"prefect {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start_server(self) -> subprocess.Popen[bytes]:
        """Start the server and return when its API answers."""
        words = ("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        server = self.spawn("server", str(BIN / "prefect"), *words)
        wait_for(f"{self.url}/api/health", server, f"the Prefect server did not start; see {self.folder}/server.log")
        return server

    def deploy(self) -> None:
        """Make the work pool and deploy all of prefect.yaml, as README says it."""
        self.command("work-pool", "create", POOL, "--type", "process", "--overwrite")
        self.command("--no-prompt", "deploy", "--all")
        self.command("automation", "create", "--from-file", "deployments/automations.yaml")

    def start_worker(self, name: str = "demo") -> subprocess.Popen[bytes]:
        """Start a process worker on the pool; it writes ``worker.log``, as every other."""
        return self.spawn("worker", str(BIN / "prefect"), "worker", "start", "--pool", POOL, "--name", name)

    def spawn(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a program that knows this server and is ended with it; it writes ``name.log``."""
        with (self.folder / f"{name}.log").open("ab") as log, uninterrupted():
            process = subprocess.Popen(
                words,
                env=self.env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._processes.append(process)
        return process

    def check(self) -> None:
        """Raise when the server or the worker has ended by itself, or when all shall end."""
        check()
        for process in self._processes:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}; see {self.folder}/*.log")

    def stop(self) -> None:
        """End worker, its runs and server, the newest first; nothing of theirs is left running."""
        with uninterrupted():
            for process in reversed(self._processes):
                _end(process)
            self._processes.clear()


def wait_for(url: str, process: subprocess.Popen[bytes], otherwise: str) -> None:
    """Return when ``url`` answers; raise ``otherwise`` when its process has ended or two minutes have passed."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(url, timeout=2)
            return
        time.sleep(0.2)
    raise RuntimeError(otherwise)


def _end(process: subprocess.Popen[bytes]) -> None:
    for how, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

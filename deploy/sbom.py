"""Writes the software bill of materials of an image, as CycloneDX 1.6 JSON.

    python deploy/sbom.py drmad-api:0.1.0 > api.cdx.json

It lists Python's packages, as pip in the image does, and Debian's. It needs docker and the package
cyclonedx-python-lib.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_DEBIAN = "${Package}\t${Version}\t${Architecture}\n"


def python_packages(inspected: dict[str, Any]) -> Iterator[Component]:
    """Those of `pip inspect`."""
    licenses = LicenseFactory()
    for package in inspected["installed"]:
        metadata = package["metadata"]
        name, version = metadata["name"], metadata["version"]
        stated = metadata.get("license_expression") or metadata.get("license") or ""
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=PackageURL("pypi", name=name.lower().replace("_", "-"), version=version),
            bom_ref=f"pypi:{name}",
            # A whole licence text stands in some packages' field for its name.
            licenses=[licenses.make_from_string(stated)] if 0 < len(stated) < 80 else [],
        )


def debian_packages(listed: Iterable[str]) -> Iterator[Component]:
    """Those of `dpkg-query`, one a line: name, version, architecture."""
    for line in listed:
        name, version, architecture = line.split("\t")
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=PackageURL(
                "deb", "debian", name, version, qualifiers={"arch": architecture.strip()}
            ),
            bom_ref=f"deb:{name}:{architecture.strip()}",
        )


def bill(image: str, inspected: dict[str, Any], listed: Iterable[str]) -> str:
    name, _, version = image.partition(":")
    bom = Bom(components=[*python_packages(inspected), *debian_packages(listed)])
    whole = Component(
        type=ComponentType.CONTAINER, name=name, version=version or None, bom_ref=image
    )
    bom.metadata.component = whole
    bom.register_dependency(whole, bom.components)
    return str(JsonV1Dot6(bom).output_as_string(indent=1))


def main(image: str) -> None:
    def within(*command: str) -> str:
        entered = ["docker", "run", "--rm", "--network=none", f"--entrypoint={command[0]}", image]
        done = subprocess.run([*entered, *command[1:]], capture_output=True, text=True, check=True)
        return done.stdout

    inspected = json.loads(within("python", "-m", "pip", "inspect"))
    print(bill(image, inspected, within("dpkg-query", "-W", "-f", _DEBIAN).splitlines()))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Print docs/sbom.json: the bill of materials (CycloneDX 1.6), from the lock and docs/licences.md.

The command cyclonedx-py adds the URL of an index to each file, and no licence. Nothing here depends
on time or place, so that the same lock gives the same file.
"""

import json
import re
import tomllib
from pathlib import Path

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from scripts.locked import OURSELVES, Pin, pins

ROOT = Path(__file__).parents[1]


def bill() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    licences = dict(
        re.findall(r"^\| (\S+) \| \S+ \| (.+?) \|", (ROOT / "docs/licences.md").read_text(), re.M)
    )
    root = Component(
        type=ComponentType.APPLICATION,
        name=project["name"],
        version=project["version"],
        bom_ref=OURSELVES,
        licenses=[LicenseExpression(project["license"])],
    )
    parts = {pin.name: _part(pin, licences[pin.name]) for pin in pins("runtime")}
    bom = Bom(components=parts.values())
    bom.metadata.component = root
    for pin in pins("runtime"):
        for by in pin.wanted_by:
            bom.register_dependency(parts.get(by, root), [parts[pin.name]])
    document = json.loads(
        make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    )
    # They differ between runs.
    del document["serialNumber"], document["metadata"]["timestamp"]
    text = json.dumps(document, indent=1, sort_keys=True)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(error)
    return text


def _part(pin: Pin, licence: str) -> Component:
    purl = PackageURL("pypi", name=pin.name, version=pin.version)
    return Component(
        type=ComponentType.LIBRARY,
        name=pin.name,
        version=pin.version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=[LicenseExpression(licence)],
        properties=[Property(name="python:marker", value=pin.marker)] if pin.marker else [],
    )


if __name__ == "__main__":
    print(bill())  # noqa: T201 (that is what it is for)

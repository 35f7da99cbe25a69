"""What KubeRay's custom resources may hold, cut down from their definitions: without the pods and words of Kubernetes.

    python -m tests.cluster.crd v1.7.0 ray.io_rayclusters.yaml ray.io_rayjobs.yaml > tests/cluster/kuberay-v1.7.0.json

The two files are in ``ray-operator/config/crd/bases`` of KubeRay's repository (Apache-2.0). What is Kubernetes' own in
them is left open and marked, so that the tests hold it against Kubernetes' own schemas.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

# Parts that are a type of Kubernetes, and the marker for those that a schema of Kubernetes knows.
TEMPLATES = {"template", "submitterPodTemplate"}
OPEN = {"headService", "ingressRules", "egressRules", "env", "envFrom", "volumeMounts", "securityContext", "resources"}
KEPT = ("type", "enum", "required", "minimum", "maximum", "pattern", "minItems", "format", "default")
MARK = "podTemplate"


def compact(schema: dict[str, Any], name: str = "") -> dict[str, Any]:
    """A JSON schema that refuses names it does not know, as the API server does with ``--validate=strict``."""
    if name in TEMPLATES:
        return {"$comment": MARK, "type": "object"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: schema[key] for key in KEPT if key in schema}
    if name in OPEN and schema.get("type") == "object" and "properties" in schema:
        return {"type": "object"}
    if name in OPEN and schema.get("type") == "array":
        return {"type": "array"}
    if "items" in schema:
        found["items"] = compact(schema["items"])
    if "properties" in schema:
        found["properties"] = {key: compact(value, key) for key, value in sorted(schema["properties"].items())}
        found["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = compact(schema["additionalProperties"])
    return found


def spec_of(definition: dict[str, Any], version: str = "v1") -> dict[str, Any]:
    """The schema of a resource's ``spec`` in a custom resource definition."""
    served = next(one for one in definition["spec"]["versions"] if one["name"] == version)
    found: dict[str, Any] = served["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def main(release: str, *paths: str) -> None:
    """Print the schemas by kind, with their sources."""
    sources, schemas = {}, {}
    for path in paths:
        raw = Path(path).read_bytes()
        definition = yaml.load(raw, yaml.CSafeLoader)
        sources[f"ray-operator/config/crd/bases/{Path(path).name}"] = hashlib.sha256(raw).hexdigest()
        schemas[definition["spec"]["names"]["kind"]] = compact(spec_of(definition))
    told = {"project": "KubeRay", "release": release, "license": "Apache-2.0", "sha256": sources}
    print(json.dumps({"source": told, "schemas": schemas}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The schema of the run folder, as JSON Schema and as the page ``docs/results-schema.md``.

python -m kselftests_py.results.schema > docs/results-schema.md
"""

from __future__ import annotations

from typing import Any

import msgspec

from kselftests_py.results.manifest import Host, KernelEntry, Manifest
from kselftests_py.results.record import SCHEMA_VERSION, Metric, Record, Where

TABLES: dict[type[msgspec.Struct], str] = {
    Record: "`Record`: a line of `results.jsonl`",
    Metric: "`Metric`: an entry of `metrics`",
    Where: "`Where`: an entry of `where`",
    Manifest: "`Manifest`: `manifest.json`",
    KernelEntry: "`KernelEntry`: an entry of `kernels`",
    Host: "`Host`: `host`",
}

HEAD = f"""\
# The run folder, schema version {SCHEMA_VERSION}

This page is generated from the Structs in `kselftests_py/results/` by `python -m kselftests_py.results.schema`;
a test keeps it true. `msgspec.json.schema` gives the same as JSON Schema (`kselftests_py.results.schema.json_schema`).

| file | what it holds |
|---|---|
| `results.jsonl` | one `Record` a line, flushed and synced as each test ends |
| `manifest.json` | the `Manifest`; replaced at once, never half-written |
| `console/LABEL-N.log` | the serial console of a kernel's N-th boot, as the guest wrote it: hostile bytes |
| `junit.xml`, `ktap.txt`, `report.html` | reports, made from the above; `kst report RUN` makes them again |

A run that was killed leaves the records it had and at most one unfinished last line, which readers leave out.

`outcome` FAIL with a `finding` is a failure that was expected (reports say XFAIL) and does not fail the run; PASS or
DONE with a `finding` contradicts it (XPASS) and does. CRASH and HANG count whatever the finding.

Readers must accept fields they do not know. A change that breaks a reader raises `schema_version`.
"""


def json_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one of the Structs."""
    return msgspec.json.schema(struct)


def markdown() -> str:
    """The page ``docs/results-schema.md``."""
    parts = [HEAD]
    for struct, title in TABLES.items():
        properties = json_schema(struct)["$defs"][struct.__name__]
        required = set(properties.get("required", ()))
        parts.append(f"## {title}\n\n| field | type | required | meaning |\n|---|---|---|---|")
        for name, schema in properties["properties"].items():
            cells = (f"`{name}`", _type(schema), "yes" if name in required else "", schema.get("description", ""))
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _type(schema: dict[str, Any]) -> str:
    """A schema's type in words, as short as a table cell wants it."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    for union in ("anyOf", "allOf"):
        if union in schema:
            return " or ".join(_type(option) for option in schema[union])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "prefixItems" in schema:
        return "[" + ", ".join(_type(item) for item in schema["prefixItems"]) + "]"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) and values else "object"
    return str(schema.get("type", "any"))


if __name__ == "__main__":
    print(markdown(), end="")

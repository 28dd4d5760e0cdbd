"""`conceptprune schema`: JSON Schemas of a manifest and of a suite, for editors."""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from conceptprune.errors import UserError
from conceptprune.evaluation.job_manifest import JobManifest
from conceptprune.evaluation.suite import Suite

DOCUMENTS: dict[str, type[BaseModel]] = {"manifest": JobManifest, "suite": Suite}
DRAFT = "https://json-schema.org/draft/2020-12/schema"


class _PresentNames(GenerateJsonSchema):
    """Writes defaults under current field names; dumps have former ones (`fields.formerly`)."""

    def encode_default(self, dft: Any) -> Any:
        return to_jsonable_python(dft, by_alias=False)


def schema_of(document: str) -> dict[str, Any]:
    """The JSON Schema of a manifest or a suite, as an author writes it.

    It contains fields, types and ranges. Only `conceptprune validate` checks rules between fields
    and the content of files.

    Raises:
        UserError: there is no such document.
    """
    if document not in DOCUMENTS:
        raise UserError(f"schema {document}: one of {', '.join(DOCUMENTS)}")
    found = DOCUMENTS[document].model_json_schema(mode="validation", schema_generator=_PresentNames)
    return {"$schema": DRAFT, **found, "title": f"conceptprune {document}"}


def schema_text(document: str) -> str:
    """The schema as stored in the repository under `manifests/`.

    Raises:
        UserError: there is no such document.
    """
    return json.dumps(schema_of(document), indent=2, ensure_ascii=False) + "\n"

"""The schema that `/slotproxy/api/schema` gives away."""

from typing import Any

import msgspec
import pytest

from slotproxy.proxy.operator.document import Errors, StateDocument, schema

EMPTY = '{"refused":0,"unavailable":0,"timeout":0,"other":0,"total":0}'


def objects() -> dict[str, dict[str, Any]]:
    return {name: part for name, part in schema()["$defs"].items() if part.get("type") == "object"}


def test_the_schema_begins_at_the_state_document_and_every_reference_in_it_leads_somewhere() -> None:
    document = schema()
    assert document["$ref"] == "#/$defs/StateDocument"
    references = set(references_in(document))
    assert references == {f"#/$defs/{name}" for name in document["$defs"]}


def references_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if "$ref" in value else []
        return found + [one for part in value.values() for one in references_in(part)]
    return [one for part in value for one in references_in(part)] if isinstance(value, list) else []


def test_every_object_has_a_sentence_about_it_and_names_each_of_its_fields() -> None:
    for name, part in objects().items():
        assert part["description"].endswith("."), name
        assert part["required"] == list(part["properties"]), name
        assert part["additionalProperties"] is False, name


def test_every_number_says_what_it_counts_unless_its_name_does() -> None:
    named = {"slots", "restarts", "total", "limit", "remaining", "count"}
    silent = {
        field
        for part in objects().values()
        for field, type_ in part["properties"].items()
        if type_.get("type") in ("integer", "number") and "description" not in type_
    }
    assert silent <= named


def test_a_field_that_is_missing_unknown_or_of_another_type_is_no_such_document() -> None:
    assert msgspec.json.decode(EMPTY, type=Errors) == Errors(refused=0, unavailable=0, timeout=0, other=0, total=0)
    for wrong in (EMPTY.replace('"total":0', '"all":0'), EMPTY.replace('"total":0', '"total":"0"'), "{}"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=Errors)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(EMPTY.replace("}", ',"more":0}'), type=Errors)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode("{}", type=StateDocument)

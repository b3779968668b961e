"""Request bodies: JSON in, read forgivingly about the case of keys and strictly about everything else."""

import difflib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from litestar import Request

from jobledger.service.api.params import lower_keys, parse_state
from jobledger.service.limits import UNKNOWN_FIELDS_TOLD
from jobledger.service.versions import check_version_text
from jobledger.store.model.errors import InvalidInput, InvalidSpec
from jobledger.store.model.job import State
from jobledger.store.model.limits import SPEC_MAX_DEPTH
from jobledger.store.spec.formats import repeated_key
from jobledger.store.spec.reader import ReadSpec, read_spec
from jobledger.store.spec.values import shown

# Bacalhau's clients send these; they mean nothing here, and who sends them has lost nothing.
IGNORED_FIELDS: Final = ("IdempotencyToken", "Credential")
_FIELD_MAX_CHARACTERS: Final = 64
_decoder: Final = msgspec.json.Decoder()


class Body(NamedTuple):
    """A request's body.

    Attributes:
        raw: as it came.
        fields: what it says, with keys in lower case.
    """

    raw: bytes
    fields: dict[str, object]

    def get(self, name: str) -> object:
        """A field's value; None if absent or null."""
        return self.fields.get(name.lower())

    def unknown(self, known: Sequence[str]) -> list[str]:
        """A warning for each field that is none of these: a slip must not lose what was meant."""
        names = {name.lower(): name for name in (*known, *IGNORED_FIELDS)}
        warnings = []
        for key in self.fields.keys() - names.keys():
            near = difflib.get_close_matches(key[:_FIELD_MAX_CHARACTERS], names, n=1)
            told = f"did you mean `{names[near[0]]}`?" if near else f"the fields are {', '.join(known)}"
            warnings.append(f"{key[:_FIELD_MAX_CHARACTERS]}: not a field of this request; {told}")
        return sorted(warnings)[:UNKNOWN_FIELDS_TOLD]


def read_body(request: Request[Any, Any, Any]) -> Body:
    """The body of a request, which the gate has read and bounded; an empty one has no fields.

    Raises:
        InvalidInput: if it is no JSON object.
    """
    raw: bytes = request.scope["state"]["body"]
    if not raw.strip():
        return Body(raw, {})
    try:
        value = _decoder.decode(raw)
        repeated = repeated_key(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise InvalidInput(
            f"the body is nested too deeply; at most {SPEC_MAX_DEPTH} levels are taken"
        ) from None
    if not isinstance(value, dict):
        raise InvalidInput("the body is not a JSON object; send one, with the fields that docs/API.md names")
    fields = lower_keys(value)
    if repeated is None and len(fields) != len(value):
        lower = [key.lower() for key in value]
        repeated = next(key for key in value if lower.count(key.lower()) > 1)
    if repeated is not None:
        raise InvalidInput(
            f"the body has the key {shown(repeated)} twice in one object (its own fields are compared without"
            " case); keep one of them"
        )
    return Body(raw, fields)


def spec_of(body: Body, *, strict: bool) -> ReadSpec:
    """The spec under `Job`.

    Raises:
        InvalidSpec: every problem of its shape at once, with paths.
        InvalidInput: if there is none.
    """
    if body.get("Job") is None:
        raise InvalidInput('the body has no Job; send {"Job": {…}}')
    try:
        return read_spec(body.get("Job"), strict=strict)
    except InvalidSpec:
        raise
    except RecursionError:
        raise InvalidInput(f"Job is nested too deeply; at most {SPEC_MAX_DEPTH} levels are taken") from None


def state_of(body: Body) -> State:
    """The state that a body says.

    Raises:
        InvalidInput: naming the field that is wrong.
    """
    state_type = text_of(body, "StateType")
    if not state_type:
        raise InvalidInput('the body has no StateType; send {"StateType": "Running"}, say')
    details: Any = body.get("Details")
    if details is None:
        details = {}
    if not isinstance(details, dict):
        raise InvalidInput(f"Details is {details!r:.60}; send an object of texts")
    return State(parse_state(state_type, "StateType"), text_of(body, "Message"), details)


def text_of(body: Body, name: str) -> str:
    """A text field; empty if absent or null.

    Raises:
        InvalidInput: if it is no text.
    """
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {value!r:.60}; send a text")
    return value


def texts_of(body: Body, name: str) -> list[str]:
    """A field of several texts; none if absent or null, one if it is a text.

    Raises:
        InvalidInput: if it is something else.
    """
    value: Any = body.get(name)
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{name} is {value!r:.60}; send a list of texts")
    return texts


def flag_of(body: Body, name: str) -> bool:
    """A boolean field; false if absent or null.

    Raises:
        InvalidInput: if it is no boolean.
    """
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} is {value!r:.60}; send true or false")
    return value


def number_of(body: Body, name: str) -> int:
    """A whole number from 0; 0 if absent or null.

    Raises:
        InvalidInput: if it is none.
    """
    value = body.get(name)
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise InvalidInput(f"{name} is {value!r:.60}; send a whole number from 0")
    return value


def version_text_of(body: Body, name: str) -> str:
    """The number of a version or a tag, as text; empty if absent, null or 0.

    Raises:
        InvalidInput: if it can be neither.
    """
    value = body.get(name)
    text = value if isinstance(value, str) else str(number_of(body, name))
    check_version_text(text, name)
    return text if text.strip("0") else ""

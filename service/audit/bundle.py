"""A proof bundle: one job's records, where each stands in the tree, and the seal that signs the tree. Pure.

The document is JSON, described in docs/AUDIT.md so that a second reader can be written from that page alone.
Ours is strict: a key that is missing, unknown or there twice, a number that is no whole one, base64 that
another encoder would not have written, anything beyond a named limit: each is refused, and the message says
where.
"""

import json
from collections import Counter
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from jobledger.service.errors import PayloadTooLarge
from jobledger.service.limits import (
    BUNDLE_MAX_BYTES,
    BUNDLE_MAX_RECORDS,
    BUNDLE_PROOF_MAX_HASHES,
    BUNDLE_TEXT_MAX_CHARACTERS,
)
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from jobledger.store.model.limits import INT_MAX

FORMAT: Final = "jobledger-proof"
VERSION: Final = 1

_Text = Annotated[str, Meta(min_length=1, max_length=BUNDLE_TEXT_MAX_CHARACTERS)]
_Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]


class ProvenRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record of the job, exactly as the log has it, and its way to the root.

    Attributes:
        sequence: its position in the stream; its leaf is the one before, since leaves count from 0.
        time: the stream's own timestamp, Unix nanoseconds.
        subject: the NATS subject it was appended to.
        payload: the CloudEvent's bytes.
        leaf: the leaf's hash; a second reader can see by it whether it encodes records as we do.
        proof: the hashes beside the way from the leaf up to the root.
    """

    sequence: Annotated[int, Meta(ge=1, le=INT_MAX)]
    time: Annotated[int, Meta(ge=0, le=INT_MAX)]
    subject: _Text
    payload: bytes
    leaf: _Hash
    proof: Annotated[tuple[_Hash, ...], Meta(max_length=BUNDLE_PROOF_MAX_HASHES)]

    @property
    def record(self) -> Record:
        """The record alone."""
        return Record(self.sequence, self.time, self.subject, self.payload)


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole document.

    Attributes:
        format: always `FORMAT`.
        version: of the format, `VERSION`.
        origin: names the log, as the seal does.
        namespace: of the job.
        job: the job's id.
        seal: the text of a signed note (C2SP) with a checkpoint of the tree.
        records: of the job, oldest first: all that the tree holds.
    """

    format: str
    version: int
    origin: _Text
    namespace: _Text
    job: _Text
    seal: _Text
    records: Annotated[tuple[ProvenRecord, ...], Meta(min_length=1, max_length=BUNDLE_MAX_RECORDS)]


def make_bundle(
    *, origin: str, namespace: str, job: str, seal: str, records: tuple[ProvenRecord, ...]
) -> Bundle:
    """A bundle of this release's format.

    Raises:
        PayloadTooLarge: if the job has more records than a bundle may hold.
    """
    if len(records) > BUNDLE_MAX_RECORDS:
        raise too_many_records(job)
    return Bundle(
        format=FORMAT,
        version=VERSION,
        origin=origin,
        namespace=namespace,
        job=job,
        seal=seal,
        records=records,
    )


def too_many_records(job: str) -> PayloadTooLarge:
    """The error for a job that no bundle can hold."""
    return PayloadTooLarge(
        f"job {job} has more than {BUNDLE_MAX_RECORDS} records, or they take more than {BUNDLE_MAX_BYTES}"
        " bytes: no bundle holds that; `jobledger audit verify` checks the log itself"
    )


def write_bundle(bundle: Bundle) -> bytes:
    """The document, a record to a line, so that two of them can be compared by eye.

    Raises:
        PayloadTooLarge: if it would be larger than a reader takes.
    """
    head = _encoder.encode(msgspec.structs.replace(bundle, records=()))
    assert head.endswith(_NO_RECORDS)
    lines = b",\n".join(map(_encoder.encode, bundle.records))
    text = b"%b[\n%b\n]}\n" % (head[: -len(_NO_RECORDS) + len(b'"records":')], lines)
    if len(text) > BUNDLE_MAX_BYTES:
        raise too_many_records(bundle.job)
    return text


def read_bundle(text: bytes) -> Bundle:
    """The bundle that a document holds; nothing of it is proven yet.

    Raises:
        InvalidInput: if it is no bundle of a format that this release knows, naming the place.
    """
    if len(text) > BUNDLE_MAX_BYTES:
        raise InvalidInput(f"the bundle has {len(text)} bytes, and at most {BUNDLE_MAX_BYTES} are taken")
    document = _read_json(text)
    _check_format(document)
    try:
        _encoder.encode(document)
        bundle = msgspec.convert(document, Bundle)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the bundle is not of format {FORMAT} {VERSION}: {error}") from None
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        raise InvalidInput("the bundle holds text that is not Unicode") from None
    # base64 has several spellings of the same bytes: one of them is RFC 4648's, and comes out as it came in.
    if msgspec.json.decode(_encoder.encode(bundle)) != document:
        raise InvalidInput(
            "the bundle holds base64 that is not spelled as RFC 4648 says; get the bundle again"
        )
    return bundle


def _read_json(text: bytes) -> Any:
    try:
        return json.loads(
            text.decode("utf-8"),  # by itself json would also take UTF-16 and UTF-32
            object_pairs_hook=_unique,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except RecursionError:
        raise InvalidInput("the bundle is nested too deeply to be one") from None
    except ValueError as error:
        raise InvalidInput(f"the bundle is no JSON document: {error}") from None


def _check_format(document: Any) -> None:
    """Say first what it is, if it is something else: the rest of the message would be a riddle."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidInput(f"this is no proof bundle: its format is not {FORMAT!r}")
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise InvalidInput(
            f"the bundle has version {version!r:.40} of its format, and this release reads {VERSION}:"
            " a newer Jobledger made it; upgrade this one"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r:.60} is there twice")
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"{text:.40} is no whole number")


_encoder: Final = msgspec.json.Encoder()
_NO_RECORDS: Final = b'"records":[]}'

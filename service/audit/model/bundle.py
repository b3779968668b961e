"""The format of a proof bundle: one job's records, their proofs in the tree, and the seal of the tree. Pure.

The document is JSON; docs/AUDIT.md describes it so that a second reader can be written from that page alone.
The reader is strict: it rejects a missing, unknown or duplicate key, a number that is not an integer,
non-canonical base64, and anything beyond a named limit, and the message names the place.
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
    """One record of the job, exactly as in the log, and its inclusion proof.

    Attributes:
        sequence: its position in the stream; the index of its leaf is one less.
        time: the stream time, Unix nanoseconds.
        subject: the NATS subject it was appended to.
        payload: the CloudEvent's bytes.
        leaf: the leaf's hash; it shows a second reader whether it encodes records the same way.
        proof: the sibling hashes from the leaf up to the root.
    """

    sequence: Annotated[int, Meta(ge=1, le=INT_MAX)]
    time: Annotated[int, Meta(ge=0, le=INT_MAX)]
    subject: _Text
    payload: bytes
    leaf: _Hash
    proof: Annotated[tuple[_Hash, ...], Meta(max_length=BUNDLE_PROOF_MAX_HASHES)]

    @property
    def record(self) -> Record:
        """The record without its proof."""
        return Record(self.sequence, self.time, self.subject, self.payload)


class Bundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole document.

    Attributes:
        format: always `FORMAT`.
        version: of the format, `VERSION`.
        origin: of the log, as in the seal.
        namespace: of the job.
        job: the job's id.
        seal: a signed note (C2SP) with a checkpoint of the tree.
        records: all records of the job in the tree, oldest first.
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
    """Return a bundle.

    Raises:
        PayloadTooLarge: the job has more than BUNDLE_MAX_RECORDS records.
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
    """Return the error for a job that is too large for a bundle."""
    return PayloadTooLarge(
        f"job {job} has more than {BUNDLE_MAX_RECORDS} records or {BUNDLE_MAX_BYTES} bytes, the maximum of a"
        " bundle; verify the log itself with `jobledger audit verify`"
    )


def write_bundle(bundle: Bundle) -> bytes:
    """Return the document, with one record per line so that two bundles can be compared with `diff`.

    Raises:
        PayloadTooLarge: it would have more than BUNDLE_MAX_BYTES.
    """
    head = _encoder.encode(msgspec.structs.replace(bundle, records=()))
    assert head.endswith(_NO_RECORDS)
    lines = b",\n".join(map(_encoder.encode, bundle.records))
    text = b"%b[\n%b\n]}\n" % (head[: -len(_NO_RECORDS) + len(b'"records":')], lines)
    if len(text) > BUNDLE_MAX_BYTES:
        raise too_many_records(bundle.job)
    return text


def read_bundle(text: bytes) -> Bundle:
    """Parse a document; the bundle is not verified yet.

    Raises:
        InvalidInput: it is not a bundle of a format that this release reads.
    """
    if len(text) > BUNDLE_MAX_BYTES:
        raise InvalidInput(f"the bundle must have at most {BUNDLE_MAX_BYTES} bytes, got {len(text)}")
    document = _read_json(text)
    _check_format(document)
    try:
        _encoder.encode(document)
        bundle = msgspec.convert(document, Bundle)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the bundle is not of format {FORMAT} {VERSION}: {error}") from None
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can express
        raise InvalidInput("the bundle contains text that is not Unicode") from None
    # Only the canonical base64 of RFC 4648 survives a round trip unchanged.
    if msgspec.json.decode(_encoder.encode(bundle)) != document:
        raise InvalidInput(
            "the bundle contains base64 that is not canonical (RFC 4648); get the bundle again"
        )
    return bundle


def _read_json(text: bytes) -> Any:
    try:
        return json.loads(
            text.decode("utf-8"),  # json would also accept UTF-16 and UTF-32
            object_pairs_hook=_unique,
            parse_float=_refuse,
            parse_constant=_refuse,
        )
    except RecursionError:
        raise InvalidInput("the bundle is nested too deeply") from None
    except ValueError as error:
        raise InvalidInput(f"the bundle is not a JSON document: {error}") from None


def _check_format(document: Any) -> None:
    """Check the format first: errors in the rest of another format would be misleading."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidInput(f"this is not a proof bundle: its format must be {FORMAT!r}")
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise InvalidInput(
            f"the bundle has format version {version!r:.40}, but this release reads {VERSION}: a newer"
            " Jobledger made it; upgrade this one"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"duplicate key {twice!r:.60}")
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"{text:.40} is not an integer")


_encoder: Final = msgspec.json.Encoder()
_NO_RECORDS: Final = b'"records":[]}'

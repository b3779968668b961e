"""A second verifier of proof bundles, written from docs/AUDIT.md (and docs/EVENTS.md for events) only.

It shares no code with Jobledger: tests compare both, and thereby the page with the code.
"""

import json
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

BUNDLE_KEYS = {"format", "version", "origin", "namespace", "job", "seal", "records"}
RECORD_KEYS = {"sequence", "time", "subject", "payload", "leaf", "proof"}
PLAIN = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!\"#$&'()+,-/:;<=?@[\\]^_`{|}~")


class NotProvenError(Exception):
    """Why a bundle proves nothing."""


def verify(document: bytes, vkey: str) -> dict[str, Any]:
    """Return what a bundle proves: job, namespace, origin, size, and sequences and times of records."""
    bundle = read(document)
    origin, size, root = open_note(bundle["seal"], vkey)
    need(origin == bundle["origin"], "origin")
    subject = subject_of(bundle["namespace"], bundle["job"])
    before = 0
    for record in bundle["records"]:
        need(record["subject"] == subject, "subject")
        need(before < record["sequence"] <= size, "order")
        before = record["sequence"]
        check_place(record, size, root)
    return {
        "job": bundle["job"],
        "namespace": bundle["namespace"],
        "origin": origin,
        "size": size,
        "records": [(record["sequence"], record["time"]) for record in bundle["records"]],
        "revision": revision_of(bundle),
    }


def read(document: bytes) -> dict[str, Any]:
    """Parse the document as strictly as specified."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "a key twice")
        return dict(pairs)

    def refuse(_: str) -> Any:
        raise NotProvenError("a number that is not whole")

    try:
        bundle = json.loads(
            document.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=refuse,
            parse_constant=refuse,
        )
    except (ValueError, RecursionError) as error:
        raise NotProvenError("not JSON") from error
    need(isinstance(bundle, dict) and set(bundle) == BUNDLE_KEYS, "keys")
    need(bundle["format"] == "jobledger-proof", "format")
    need(type(bundle["version"]) is int and bundle["version"] == 1, "version")
    for key in ("origin", "namespace", "job", "seal"):
        text_of(bundle[key])
    need(isinstance(bundle["records"], list) and 1 <= len(bundle["records"]) <= 10_000, "records")
    for record in bundle["records"]:
        need(isinstance(record, dict) and set(record) == RECORD_KEYS, "keys of a record")
        for key, least in (("sequence", 1), ("time", 0)):
            need(type(record[key]) is int and least <= record[key] < 2**63, key)
        text_of(record["subject"])
        record["payload"] = bytes_of(record["payload"])
        record["leaf"] = hash_of(record["leaf"])
        need(isinstance(record["proof"], list) and len(record["proof"]) <= 63, "proof")
        record["proof"] = [hash_of(each) for each in record["proof"]]
    return dict(bundle)


def open_note(note: str, vkey: str) -> tuple[str, int, bytes]:
    """Return origin, size and root, if the key signed them."""
    name, key_id, encoded = vkey.split("+", 2)
    kind_and_key = b64decode(encoded)
    need(kind_and_key[0] == 1, "kind of key")
    need(sha256(name.encode() + b"\n" + kind_and_key).digest()[:4].hex() == key_id, "id of the key")
    text, separator, signatures = note.rpartition("\n\n")
    need(bool(separator) and signatures.endswith("\n"), "note")
    text += "\n"
    signed = False
    for line in signatures[:-1].split("\n"):
        parts = line.split(" ")
        need(len(parts) == 3 and parts[0] == "\N{EM DASH}", "line of a signature")
        decoded = bytes_of(parts[2])
        if (parts[1], decoded[:4].hex()) == (name, key_id):
            try:
                Ed25519PublicKey.from_public_bytes(kind_and_key[1:]).verify(decoded[4:], text.encode())
            except InvalidSignature as error:
                raise NotProvenError("signature") from error
            signed = True
    need(signed, "no signature by the key")
    lines = text[:-1].split("\n")
    need(len(lines) >= 3, "lines of the seal")
    need(lines[1].isascii() and lines[1].isdigit() and str(int(lines[1])) == lines[1], "size")
    return lines[0], int(lines[1]), hash_of(lines[2])


def subject_of(namespace: str, job: str) -> str:
    """Return the subject of a job."""
    shard = sha256(job.encode()).digest()[0] % 32

    def token(text: str) -> str:
        return "".join(chr(byte) if byte in PLAIN else f"%{byte:02X}" for byte in text.encode())

    return f"jobs.{token(namespace)}.{shard:02d}.{token(job)}"


def check_place(record: dict[str, Any], size: int, root: bytes) -> None:
    """Verify that the record is in the tree."""
    subject = record["subject"].encode()
    head = record["sequence"].to_bytes(8, "big") + record["time"].to_bytes(8, "big")
    h = sha256(b"\0" + head + len(subject).to_bytes(2, "big") + subject + record["payload"]).digest()
    need(h == record["leaf"], "leaf")
    i, n = record["sequence"] - 1, size - 1
    for p in record["proof"]:
        need(n != 0, "proof too long")
        if i % 2 == 1 or i == n:
            h = sha256(b"\1" + p + h).digest()
            while i % 2 == 0 and i != 0:
                i, n = i // 2, n // 2
        else:
            h = sha256(b"\1" + h + p).digest()
        i, n = i // 2, n // 2
    need(n == 0 and h == root, "root")


def revision_of(bundle: dict[str, Any]) -> int:
    """Return the job's last revision, by a fold that only knows which events increase it."""
    revision = before = 0
    for record in bundle["records"]:
        try:
            event = json.loads(record["payload"])
        except ValueError:
            event = {}
        if event.get("previous"):
            need(int(event["previous"]) == before, "an event was left out")
        if event.get("type") == "jobledger.job.created.v1" and not revision:
            revision = 1
        elif event.get("type") in {"jobledger.job.updated.v1", "jobledger.job.state.v1"} and revision:
            revision += 1
        before = record["sequence"]
    need(revision > 0, "no job")
    return revision


def text_of(value: Any) -> str:
    """Check a string."""
    need(isinstance(value, str) and 1 <= len(value) <= 16_384, "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NotProvenError("text") from error
    return str(value)


def bytes_of(value: Any) -> bytes:
    """Decode canonical base64."""
    need(isinstance(value, str), "base64")
    try:
        decoded = b64decode(value, validate=True)
    except ValueError as error:
        raise NotProvenError("base64") from error
    need(b64encode(decoded).decode() == value, "base64")
    return decoded


def hash_of(value: Any) -> bytes:
    """Decode a hash."""
    decoded = bytes_of(value)
    need(len(decoded) == 32, "hash")
    return decoded


def need(holds: bool, what: str) -> None:
    """Raise if the condition does not hold."""
    if not holds:
        raise NotProvenError(what)

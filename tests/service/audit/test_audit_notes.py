"""Signed notes and seals conform to C2SP: the vectors of the reference implementation, byte for byte."""

import asyncio
import sys
from base64 import b64decode, b64encode

import pytest
from hypothesis import given, strategies as st

from jobledger.projections.errors import ProofError
from jobledger.projections.merkle.hashing import EMPTY_ROOT
from jobledger.service.audit.model.checkpoint import make_seal, open_seal, read_seal
from jobledger.service.audit.model.note import Signer, VerifierKey, parse_note, sign_note, verify_note
from jobledger.service.limits import NOTE_MAX_BYTES, NOTE_MAX_SIGNATURES
from jobledger.store.model.errors import InvalidInput

# From golang.org/x/mod/sumdb/note, whose format C2SP's signed-note describes.
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "\N{EM DASH} PeterNeumann"
    " x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "\N{EM DASH} EnochRoot"
    " rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
PETER, ENOCH = VerifierKey.parse(PETER_KEY), VerifierKey.parse(ENOCH_KEY)
# From C2SP's tlog-checkpoint.
SEAL_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
SEAL_LINE = (
    "\N{EM DASH} example.com/behind-the-sofa"
    " Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)


def seal_of(*lines: str) -> str:
    """A note of these lines, signed by Peter."""
    return sign_note("".join(f"{line}\n" for line in lines), [Signer.of("PeterNeumann", PETER_SEED)])


def test_only_signatures_need_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, seals and keys can be parsed; signing reports how to install it."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    note = f"{SEAL_TEXT}\n{SEAL_LINE}"
    assert read_seal(note).size == 20_852_163
    assert str(VerifierKey.parse(PETER_KEY)) == PETER_KEY
    with pytest.raises(InvalidInput, match=r"pip install 'jobledger\[audit\]'"):
        verify_note(parse_note(f"{TEXT}\n{PETER_LINE}"), [PETER])
    with pytest.raises(InvalidInput, match=r"pip install 'jobledger\[audit\]'"):
        Signer.of("a", PETER_SEED)


async def test_the_command_and_the_view_import_no_cryptography() -> None:
    """Commands that only read jobs start without it."""
    code = (
        "import sys, jobledger.service.cli.main, jobledger.projections.projector\n"
        "import jobledger.projections.tree_reader, jobledger.service.audit.model.checkpoint\n"
        "print('cryptography' in sys.modules, 'nats' in sys.modules)"
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=pipe)
    output, _ = await process.communicate()
    assert output.split() == [b"False", b"False"]


def test_a_note_is_signed_as_the_reference_signs_it() -> None:
    """The same key and text give the same note, byte for byte."""
    signer = Signer.of("PeterNeumann", PETER_SEED)
    assert str(signer.key) == PETER_KEY
    assert sign_note(TEXT, [signer]) == f"{TEXT}\n{PETER_LINE}"
    assert b64encode(PETER_SEED).decode() not in repr(signer)


def test_signatures_of_known_keys_are_verified_and_others_ignored() -> None:
    """The result lists the known signers; unknown signatures have no effect."""
    note = parse_note(f"{TEXT}\n{PETER_LINE}{ENOCH_LINE}")
    assert note.text == TEXT
    assert verify_note(note, [PETER]) == (PETER,)
    assert verify_note(note, [ENOCH, PETER]) == (PETER, ENOCH)
    assert verify_note(parse_note(f"{TEXT}\n{PETER_LINE}{PETER_LINE}"), [PETER]) == (PETER,)
    with pytest.raises(ProofError, match=r"no known key .* PeterNeumann\+c74f20a3, EnochRoot"):
        verify_note(note, [])


def test_a_wrong_signature_of_a_known_key_invalidates_the_note() -> None:
    """Even if another signature is valid."""
    wrong = f"{PETER_LINE[:60]}ABCD{PETER_LINE[60:]}"
    with pytest.raises(ProofError, match=r"PeterNeumann\+c74f20a3 is wrong"):
        verify_note(parse_note(f"{TEXT}\n{wrong}{ENOCH_LINE}"), [PETER, ENOCH])
    changed = parse_note(f"{TEXT.replace('answer', 'Answer')}\n{PETER_LINE}")
    with pytest.raises(ProofError):
        verify_note(changed, [PETER])


def test_another_key_of_the_same_name_is_another_key() -> None:
    """Name and id together identify a key; a signature by another key of that name is ignored."""
    impostor = Signer.of("PeterNeumann", b"\x01" * 32)
    with pytest.raises(ProofError, match="no known key"):
        verify_note(parse_note(sign_note(TEXT, [impostor])), [PETER])
    both = parse_note(sign_note(TEXT, [impostor, Signer.of("PeterNeumann", PETER_SEED)]))
    assert verify_note(both, [PETER]) == (PETER,)


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n{PETER_LINE[:-1]}",
        f"\x01{TEXT}\n{PETER_LINE}",
        b"\xff" + f"{TEXT}\n{PETER_LINE}".encode(),
        f"{TEXT}\n{PETER_LINE.replace('PeterNeumann', 'Bad Name')}",
        f"{TEXT}\n{PETER_LINE.replace('PeterNeumann', 'a+b')}",
        f"{TEXT}\n{PETER_LINE}Unexpected line.\n",
        f"{TEXT}\n{PETER_LINE.replace('=', '')}",
        f"{TEXT}\n{PETER_LINE.replace('JnAM=', 'JnAN=')}",
        f"{TEXT}\n\N{EM DASH} PeterNeumann x08gow==\n",
        f"\n{PETER_LINE}",
        "",
        "\n\n",
        "\ud800",
    ],
)
def test_an_invalid_note_is_rejected(note: str | bytes) -> None:
    """No signature, no final newline, control characters, foreign bytes, invalid names, invalid base64."""
    with pytest.raises(ProofError):
        parse_note(note)


def test_a_note_has_limits() -> None:
    """At the limits of signatures and bytes, and one more."""
    assert len(parse_note(f"{TEXT}\n{PETER_LINE * NOTE_MAX_SIGNATURES}").signatures) == NOTE_MAX_SIGNATURES
    with pytest.raises(ProofError, match="signatures, more than"):
        parse_note(f"{TEXT}\n{PETER_LINE * (NOTE_MAX_SIGNATURES + 1)}")
    capacity = NOTE_MAX_BYTES - len(f"\n\n{PETER_LINE}".encode())
    parse_note(f"{'a' * capacity}\n\n{PETER_LINE}")
    with pytest.raises(ProofError, match="bytes, more than"):
        parse_note(f"{'a' * (capacity + 1)}\n\n{PETER_LINE}")


def test_no_part_of_a_verifier_key_is_accepted() -> None:
    """Every substring, and every text with one changed character, is rejected."""
    mangled = [PETER_KEY[start:end] for start in range(len(PETER_KEY)) for end in range(start + 1, 200, 7)]
    mangled += [
        PETER_KEY[:at] + chr(ord(PETER_KEY[at]) + 1) + PETER_KEY[at + 1 :] for at in range(len(PETER_KEY))
    ]
    mangled += [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ]
    for text in mangled:
        if text != PETER_KEY:
            with pytest.raises(InvalidInput):
                VerifierKey.parse(text)


def test_a_text_that_can_not_be_signed_is_rejected() -> None:
    """No final newline, control characters, no signer, too many."""
    signer = Signer.of("PeterNeumann", PETER_SEED)
    for text in ("abc", "a\tb\n"):
        with pytest.raises(InvalidInput, match="can't sign"):
            sign_note(text, [signer])
    for signers in ([], [signer] * (NOTE_MAX_SIGNATURES + 1)):
        with pytest.raises(InvalidInput, match=r"signers must be 1\.\.100"):
            sign_note(TEXT, signers)
    for name in ("", "a b", "a+b", "a\N{NO-BREAK SPACE}b"):
        with pytest.raises(InvalidInput, match="invalid key name"):
            Signer.of(name, PETER_SEED)


def test_the_published_checkpoint_is_read() -> None:
    """The example of the specification: origin, size and root."""
    seal = read_seal(f"{SEAL_TEXT}\n{SEAL_LINE}")
    assert (seal.origin, seal.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert b64encode(seal.root).decode() == "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


def test_a_seal_is_a_checkpoint_and_names_its_keys() -> None:
    """It is read as it was made; during a rotation it has the signatures of both keys."""
    signers = [Signer.of("one", b"\x01" * 32), Signer.of("two", b"\x02" * 32)]
    seal = make_seal("jobledger/abc", 7, EMPTY_ROOT, signers)
    assert seal.note.startswith(f"jobledger/abc\n7\n{b64encode(EMPTY_ROOT).decode()}\n\n\N{EM DASH} one ")
    assert open_seal(seal.note, [signers[1].key]).signers == (signers[1].key.short,)
    both = open_seal(seal.note.encode(), [each.key for each in signers])
    assert both == seal


def test_unknown_extension_lines_are_ignored() -> None:
    """Other logs may have lines after the root."""
    note = seal_of("a/b", "1", b64encode(EMPTY_ROOT).decode(), "more", "lines")
    assert open_seal(note, [PETER]).size == 1


@pytest.mark.parametrize(
    "lines",
    [
        ("a/b", "1"),
        ("a/b", "01", b64encode(EMPTY_ROOT).decode()),
        ("a/b", "-1", b64encode(EMPTY_ROOT).decode()),
        ("a/b", "\N{ARABIC-INDIC DIGIT ONE}", b64encode(EMPTY_ROOT).decode()),
        ("a/b", str(2**63), b64encode(EMPTY_ROOT).decode()),
        ("a/b", "1", b64encode(EMPTY_ROOT[1:]).decode()),
        ("a/b", "1", b64encode(EMPTY_ROOT).decode().replace("hLhVU=", "hLhVV=").replace("=", "")),
        ("", "1", b64encode(EMPTY_ROOT).decode()),
        ("a/b", "1", b64encode(EMPTY_ROOT).decode(), "", "x"),
    ],
)
def test_a_signed_note_that_is_not_a_seal_is_rejected(lines: tuple[str, ...]) -> None:
    """A missing line, an invalid size or root."""
    with pytest.raises(ProofError, match=r"not a seal|not a signed note"):
        open_seal(seal_of(*lines), [PETER])


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [("", 1, EMPTY_ROOT), ("a\nb", 1, EMPTY_ROOT), ("a", -1, EMPTY_ROOT), ("a", 1, b"")],
)
def test_an_invalid_seal_is_not_made(origin: str, size: int, root: bytes) -> None:
    """An invalid origin, a negative size, a root of another length."""
    with pytest.raises(InvalidInput, match="invalid seal"):
        make_seal(origin, size, root, [Signer.of("one", b"\x01" * 32)])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_a_proof_error(garbage: bytes) -> None:
    """No other exception."""
    with pytest.raises(ProofError):
        open_seal(garbage, [PETER])

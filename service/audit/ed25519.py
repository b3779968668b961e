"""Ed25519 (RFC 8032), by `cryptography`: the only place that imports it, when a signature is needed."""

from types import ModuleType

from jobledger.store.model.errors import InvalidInput

SEED_BYTES = 32
PUBLIC_BYTES = 32


def new_seed() -> bytes:
    """A new private key."""
    return bytes(_library().Ed25519PrivateKey.generate().private_bytes_raw())


def public_of(seed: bytes) -> bytes:
    """The public key of a private one."""
    return bytes(_library().Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature of a message."""
    return bytes(_library().Ed25519PrivateKey.from_private_bytes(seed).sign(message))


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this is the signature of a message by the private key of a public one."""
    library = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        library.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _library() -> ModuleType:
    """The library, imported late: the store, the view and most commands do without it.

    Raises:
        InvalidInput: if it is not installed, with how to install it.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InvalidInput(
            "signatures need the package `cryptography`: install it with `pip install 'jobledger[audit]'`"
        ) from error
    return ed25519

"""HighwayHash-64, the keyed checksum of nats-server's message blocks, after its public reference code.

It verifies records without the server, and lets tests change stored records.
"""

import struct

_MASK = (1 << 64) - 1
_LOW = 0xFFFFFFFF
_INIT_0 = (0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3)
_INIT_1 = (0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377)


def highwayhash64(key: bytes, data: bytes) -> int:
    """Returns the 64-bit hash of data under a key of 32 bytes."""
    state = _State(struct.unpack("<4Q", key))
    whole = len(data) - len(data) % 32
    for at in range(0, whole, 32):
        state.update(struct.unpack_from("<4Q", data, at))
    if whole < len(data):
        state.remainder(data[whole:])
    return state.finish()


class _State:
    def __init__(self, key: tuple[int, ...]) -> None:
        self.mul_0, self.mul_1 = list(_INIT_0), list(_INIT_1)
        self.v_0 = [init ^ word for init, word in zip(_INIT_0, key, strict=True)]
        self.v_1 = [init ^ _rotate_32(word) for init, word in zip(_INIT_1, key, strict=True)]

    def update(self, words: tuple[int, ...]) -> None:
        for i, word in enumerate(words):
            self.v_1[i] = (self.v_1[i] + self.mul_0[i] + word) & _MASK
            self.mul_0[i] ^= (self.v_1[i] & _LOW) * (self.v_0[i] >> 32) & _MASK
            self.v_0[i] = (self.v_0[i] + self.mul_1[i]) & _MASK
            self.mul_1[i] ^= (self.v_0[i] & _LOW) * (self.v_1[i] >> 32) & _MASK
        for source, target in ((self.v_1, self.v_0), (self.v_0, self.v_1)):
            for i in (0, 2):
                low, high = _zipper(source[i + 1], source[i])
                target[i] = (target[i] + low) & _MASK
                target[i + 1] = (target[i + 1] + high) & _MASK

    def remainder(self, rest: bytes) -> None:
        size, odd, even = len(rest), len(rest) & 3, len(rest) & ~3
        self.v_0 = [(word + (size << 32) + size) & _MASK for word in self.v_0]
        self.v_1 = [
            _rotate_left(word >> 32, size) << 32 | _rotate_left(word & _LOW, size) for word in self.v_1
        ]
        packet = bytearray(32)
        packet[:even] = rest[:even]
        if size & 16:
            packet[28:] = rest[even + odd - 4 : even + odd]
        elif odd:
            packet[16:19] = bytes((rest[even], rest[even + (odd >> 1)], rest[even + odd - 1]))
        self.update(struct.unpack("<4Q", packet))

    def finish(self) -> int:
        for _ in range(4):
            words = self.v_0
            self.update(tuple(_rotate_32(words[i]) for i in (2, 3, 0, 1)))
        return (self.v_0[0] + self.v_1[0] + self.mul_0[0] + self.mul_1[0]) & _MASK


def _rotate_32(word: int) -> int:
    return (word >> 32 | word << 32) & _MASK


def _rotate_left(half: int, count: int) -> int:
    return (half << count | half >> (32 - count)) & _LOW


def _zipper(high: int, low: int) -> tuple[int, int]:
    """Bytes of two words in a fixed order."""
    words = low.to_bytes(8, "little"), high.to_bytes(8, "little")
    first = ((0, 3), (1, 4), (0, 2), (0, 5), (1, 6), (0, 1), (1, 7), (0, 0))
    second = ((1, 3), (0, 4), (1, 2), (1, 5), (1, 1), (0, 6), (1, 0), (0, 7))
    return (
        int.from_bytes(bytes(words[word][byte] for word, byte in first), "little"),
        int.from_bytes(bytes(words[word][byte] for word, byte in second), "little"),
    )

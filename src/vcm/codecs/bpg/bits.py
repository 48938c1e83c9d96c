"""Bit fields and variable-length integers of BPG and HEVC headers."""

from __future__ import annotations

from vcm.errors import BitstreamError

_MAX_UE7_BYTES = 5
_MAX_UE_PREFIX = 32


class BitReader:
    """Reads unsigned fields, most significant bit first.

    Args:
        data: The bytes to read from.
    """

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def u(self, num_bits: int) -> int:
        """Read a field of `num_bits` bits.

        Raises:
            BitstreamError: If fewer bits are left.
        """
        if num_bits > self._left:
            raise BitstreamError(f"BPG: a header is cut short: {num_bits} bits needed, {self._left} left.")
        self._left -= num_bits
        return (self._value >> self._left) & ((1 << num_bits) - 1)

    def flag(self) -> bool:
        """Read one bit."""
        return self.u(1) == 1

    def ue(self) -> int:
        """Read an Exp-Golomb code, ITU-T H.265 section 9.2.

        Raises:
            BitstreamError: If the code is longer than 32 + 1 + 32 bits, or the data ends.
        """
        num_zeros = 0
        while not self.flag():
            num_zeros += 1
            if num_zeros > _MAX_UE_PREFIX:
                raise BitstreamError("BPG: an Exp-Golomb code in a header is longer than HEVC allows.")
        return (1 << num_zeros) - 1 + self.u(num_zeros)

    def expect_padding(self) -> None:
        """Check that only zero bits up to the next byte boundary are left.

        Raises:
            BitstreamError: If there is more data.
        """
        if self._left >= 8 or self.u(self._left) != 0:
            raise BitstreamError("BPG: the HEVC header has bits after its last field.")


class BitWriter:
    """Writes unsigned fields, most significant bit first."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def u(self, value: int, num_bits: int) -> BitWriter:
        """Write `value` in `num_bits` bits."""
        assert 0 <= value < 1 << num_bits
        self._bits.append(f"{value:0{num_bits}b}")
        return self

    def ue(self, value: int) -> BitWriter:
        """Write an Exp-Golomb code, ITU-T H.265 section 9.2."""
        code = f"{value + 1:b}"
        self._bits.append("0" * (len(code) - 1) + code)
        return self

    def to_bytes(self) -> bytes:
        """Return the written bits, zero-padded to whole bytes."""
        bits = "".join(self._bits)
        num_bytes = -(-len(bits) // 8)
        return int(bits.ljust(8 * num_bytes, "0"), 2).to_bytes(num_bytes, "big")


def read_ue7(data: bytes, position: int) -> tuple[int, int]:
    """Read a ue7 number (groups of 7 bits, big-endian; a set top bit means that more follow).

    Returns:
        The number, and the position after it.

    Raises:
        BitstreamError: If the data ends, the first byte is 0x80, or there are more than 5 bytes.
    """
    value = 0
    for index in range(_MAX_UE7_BYTES):
        if position >= len(data):
            raise BitstreamError("BPG: the stream ends inside its header.")
        byte = data[position]
        position += 1
        if index == 0 and byte == 0x80:
            raise BitstreamError("BPG: a number in the header begins with the illegal byte 0x80.")
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position
    raise BitstreamError(f"BPG: a number in the header is longer than {_MAX_UE7_BYTES} bytes.")


def write_ue7(value: int) -> bytes:
    """Return the shortest ue7 encoding of a number."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(0x80 | value & 0x7F)
    return bytes(reversed(groups))


def add_emulation_prevention(payload: bytes) -> bytes:
    """Insert 0x03 before every byte of 0–3 that follows two zero bytes (ITU-T H.265 section 7.4.2)."""
    out = bytearray()
    num_zeros = 0
    for byte in payload:
        if num_zeros == 2 and byte <= 3:
            out.append(3)
            num_zeros = 0
        out.append(byte)
        num_zeros = num_zeros + 1 if byte == 0 else 0
    return bytes(out)


def remove_emulation_prevention(payload: bytes) -> bytes:
    """Undo `add_emulation_prevention`."""
    return payload.replace(b"\x00\x00\x03", b"\x00\x00")

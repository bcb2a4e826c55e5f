"""ltx - an LTX segment decoder that shares nothing with vfs/: CRC-64, LZ4 and xxHash by hand.

    header, pages, index, trailer = decode(data)

header: a Header; pages: [(pgno, page)]; index: [(pgno, offset, size)]; trailer: Trailer(post, file).
Anything that the format forbids raises Violation, whose text begins with an offset. The format is
drawn in vfs/ltx.h.

    python3 tests/ltx.py FILE...    says what is in there; exit status 1: one is damaged
"""

import collections
import struct
import sys

FLAG = 1 << 63
MASK = (1 << 64) - 1
HEADER = struct.Struct(">4sIIIQQqQqqIIQ20s")
LZ4_FRAME = 0x184D2204

Header = collections.namedtuple(
    "Header", "magic flags page_size commit min_txid max_txid timestamp_ms pre wal_offset wal_size "
    "salt1 salt2 node_id reserved")
Trailer = collections.namedtuple("Trailer", "post file")


class Violation(Exception):
    """The bytes are no LTX segment that r2vfs may take."""


def need(condition, offset, what):
    if not condition:
        raise Violation(f"offset {offset}: {what}")


# ---------------------------------------------------------------- checksums

def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0xD800000000000000 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _table()


def crc64(data, crc=0):
    """CRC-64/GO-ISO; goes on from the CRC of what was before."""
    table, crc = _CRC, crc ^ MASK
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ MASK


def page_checksum(pgno, page):
    return FLAG | crc64(page, crc64(struct.pack(">I", pgno)))


def lock_page(page_size):
    return 0x40000000 // page_size + 1


def rolling(pages, page_size):
    """Of (pgno, page) pairs: all pages of a database."""
    total = 0
    for pgno, page in pages:
        if pgno != lock_page(page_size):
            total ^= page_checksum(pgno, page)
    return FLAG | total


def rolling_of_file(data):
    """Of a whole database file."""
    if not data:
        return FLAG
    size = struct.unpack(">H", data[16:18])[0]
    size = 65536 if size == 1 else size
    return rolling(((i // size + 1, data[i:i + size]) for i in range(0, len(data), size)), size)


def xxh32(data, seed=0):
    p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
    word = 0xFFFFFFFF

    def rotl(value, bits):
        return (value << bits | value >> 32 - bits) & word

    at = 0
    if len(data) >= 16:
        lanes = [seed + p1 + p2 & word, seed + p2 & word, seed, seed - p1 & word]
        while at + 16 <= len(data):
            for i, lane in enumerate(struct.unpack_from("<4I", data, at)):
                lanes[i] = rotl(lanes[i] + lane * p2 & word, 13) * p1 & word
            at += 16
        total = sum(rotl(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18)))
    else:
        total = seed + p5
    total = total + len(data) & word
    while at + 4 <= len(data):
        total = rotl(total + struct.unpack_from("<I", data, at)[0] * p3 & word, 17) * p4 & word
        at += 4
    for byte in data[at:]:
        total = rotl(total + byte * p5 & word, 11) * p1 & word
    total = (total ^ total >> 15) * p2 & word
    total = (total ^ total >> 13) * p3 & word
    return total ^ total >> 16


# ---------------------------------------------------------------- LZ4

class Bytes:
    """A cursor that never leaves its part of the data."""

    def __init__(self, data, at, end):
        self.data, self.at, self.end = data, at, end

    def take(self, n, what):
        need(n <= self.end - self.at, self.at, f"{what} is cut short")
        self.at += n
        return self.data[self.at - n:self.at]

    def u8(self, what):
        return self.take(1, what)[0]

    def le32(self, what):
        return struct.unpack("<I", self.take(4, what))[0]


def lz4_block(src, limit, history=b""):
    """Inflate a block, which is all of `src`; history: what matches may also point into."""
    out = bytearray(history)
    limit += len(history)
    while True:
        start = src.at
        token = src.u8("an LZ4 block")
        literals = token >> 4
        more = literals == 15
        while more:
            byte = src.u8("an LZ4 length")
            literals += byte
            more = byte == 255
        need(literals <= limit - len(out), start, "an LZ4 block inflates to too much")
        out += src.take(literals, "an LZ4 literal")
        if src.at == src.end:
            return bytes(out[len(history):])
        distance = struct.unpack("<H", src.take(2, "an LZ4 offset"))[0]
        need(distance, start, "an LZ4 match has distance 0")  # liblz4 takes it
        need(distance <= len(out), start, "an LZ4 match begins before the data")
        match = (token & 15) + 4
        more = token & 15 == 15
        while more:
            byte = src.u8("an LZ4 length")
            match += byte
            more = byte == 255
        need(match <= limit - len(out), start, "an LZ4 block inflates to too much")
        if distance >= match:
            out += out[-distance:len(out) - distance + match]
        else:
            pattern = bytes(out[-distance:])
            out += (pattern * (match // distance + 1))[:match]


def lz4_frame(src, limit):
    """Inflate a frame; leaves src.at behind it."""
    begin = src.at
    need(src.le32("an LZ4 frame") == LZ4_FRAME, begin, "no LZ4 frame")
    descriptor = src.at
    flags, block_flags = src.u8("an LZ4 frame"), src.u8("an LZ4 frame")
    need(flags >> 6 == 1 and not flags & 2, descriptor, "unknown LZ4 frame flags")
    need(not block_flags & 0x8F and block_flags >> 4 >= 4, descriptor + 1, "unknown LZ4 block size")
    size = struct.unpack("<Q", src.take(8, "an LZ4 frame"))[0] if flags & 8 else None
    need(not flags & 1, descriptor, "an LZ4 frame with a dictionary")
    check = xxh32(src.data[descriptor:src.at]) >> 8 & 0xFF
    need(src.u8("an LZ4 frame") == check, src.at, "the checksum of the LZ4 frame's header is wrong")
    out = bytearray()
    while True:
        at = src.at
        word = src.le32("an LZ4 frame")
        if word == 0:
            break
        length = word & 0x7FFFFFFF
        room = 1 << (8 + 2 * (block_flags >> 4))
        need(length <= room, at, "an LZ4 block is too large")
        data = src.take(length, "an LZ4 block")
        if flags & 16:
            need(src.le32("an LZ4 frame") == xxh32(data), at, "an LZ4 block's checksum is wrong")
        if not word & 0x80000000:
            history = b"" if flags & 32 else bytes(out[-65536:])
            data = lz4_block(Bytes(src.data, at + 4, at + 4 + length), min(room, limit - len(out)),
                             history)
        need(len(data) <= limit - len(out), at, "an LZ4 frame inflates to too much")
        out += data
    if flags & 4:
        need(src.le32("an LZ4 frame") == xxh32(out), src.at, "the LZ4 content checksum is wrong")
    need(size is None or size == len(out), descriptor, "the LZ4 content size is wrong")
    return bytes(out)


# ---------------------------------------------------------------- the segment

def _header(data):
    need(len(data) >= 131, len(data), "shorter than any segment")
    h = Header._make(HEADER.unpack_from(data))
    need(h.magic == b"LTX1", 0, "it does not begin with LTX1")
    need(h.flags == 0, 4, f"flags {h.flags:#x}")
    need(h.page_size in [512 << i for i in range(8)], 8, f"page size {h.page_size}")
    need(h.commit <= 0xFFFFFFFE, 12, f"commit {h.commit}")
    need(1 <= h.min_txid <= h.max_txid, 16, f"TXIDs {h.min_txid} to {h.max_txid}")
    need(h.pre == 0 if h.min_txid == 1 else h.pre & FLAG, 40, f"pre {h.pre:016x}")
    need(h.wal_offset >= 0 and h.wal_size >= 0, 48, "negative WAL offset or size")
    need(h.wal_offset or not (h.wal_size or h.salt1 or h.salt2), 48, "a WAL without an offset")
    need(h.reserved == bytes(20), 80, "reserved bytes are not zero")
    return h


def _varint(src):
    at, value, shift = src.at, 0, 0
    while True:
        byte = src.u8("the page index")
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            need(value <= MASK and (byte or shift == 7), at, "a number in the page index is malformed")
            return value
        need(shift < 70, at, "a number in the page index is too long")


def _index(src):
    entries = []
    while True:
        pgno = _varint(src)
        if pgno == 0:
            need(src.at == src.end, src.at, "bytes after the page index's end")
            return entries
        entries.append((pgno, _varint(src), _varint(src)))


def _page(src, page_size):
    """pgno, page, and the bytes of the frame that are in the file checksum as they stand."""
    begin = src.at
    pgno, flags = struct.unpack(">IH", src.take(6, "a page frame"))
    if flags == 1:
        size = struct.unpack(">I", src.take(4, "a page frame"))[0]
        head = src.data[begin:src.at]
        need(size <= src.end - src.at, src.at, "an LZ4 block is cut short")
        page = lz4_block(Bytes(src.data, src.at, src.at + size), page_size)
        src.at += size
    else:
        need(flags == 0, begin + 4, f"page flags {flags:#x}")
        head = src.data[begin:src.at]
        page = lz4_frame(src, page_size)
    need(len(page) == page_size, begin, f"page {pgno} has {len(page)} bytes")
    return pgno, page, head


def _pages(src, h):
    """[(pgno, page)], [(pgno, offset, size)], and the CRC up to the end of the pages."""
    pages, index, crc, last = [], [], crc64(src.data[:100]), 0
    lock, empty = lock_page(h.page_size), bytes(h.page_size)
    while src.at < src.end:
        begin = src.at
        pgno, page, head = _page(src, h.page_size)
        need(last < pgno <= h.commit, begin, f"page {pgno} after {last}, commit {h.commit}")
        need(pgno != lock, begin, "the lock page")
        page = empty if page == empty else page     # of a large database's, most are
        if h.min_txid == 1:
            need(pgno == last + (2 if last + 1 == lock else 1), begin, f"page {pgno} after {last}")
        pages.append((pgno, page))
        index.append((pgno, begin, src.at - begin))
        crc = crc64(page, crc64(head, crc))
        last = pgno
    if h.min_txid == 1:
        need(last == h.commit - (h.commit == lock), src.at, f"the last page is {last}")
    return pages, index, crc


def decode(data):
    data = bytes(data)
    h = _header(data)
    tail = len(data) - 24
    size, post, stored = struct.unpack_from(">QQQ", data, tail)
    need(1 <= size <= tail - 106, tail, f"page index of {size} bytes")
    index_at = tail - size
    index = _index(Bytes(data, index_at, tail))
    pages, seen, crc = _pages(Bytes(data, 100, index_at - 6), h)
    need(data[index_at - 6:index_at] == bytes(6), index_at - 6, "no six zero bytes after the pages")
    need(index == seen, index_at, "the page index is not that of the pages")
    need(stored == FLAG | crc64(data[index_at - 6:tail + 16], crc), tail + 16, "file checksum")
    need(post & FLAG, tail + 8, f"post {post:016x}")
    need(h.commit or post == FLAG, tail + 8, f"post {post:016x} of an empty database")
    if h.min_txid == 1:
        need(post == rolling(pages, h.page_size), tail + 8, f"post {post:016x} is not the pages'")
    return h, pages, index, Trailer(post, stored)


def main(names):
    bad = 0
    for name in names:
        with open(name, "rb") as file:
            data = file.read()
        try:
            h, pages, _, trailer = decode(data)
        except Violation as why:
            print(f"{name}: {why}")
            bad = 1
            continue
        print(f"{name}: TXID {h.min_txid}..{h.max_txid} commit {h.commit} page_size {h.page_size} "
              f"pages {len(pages)} content {crc64(b''.join(p for _, p in pages)):016x} "
              f"pre {h.pre:016x} post {trailer.post:016x} file {trailer.file:016x}")
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

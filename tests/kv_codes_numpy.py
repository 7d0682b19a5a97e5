"""Coded keys and values in numpy: the independent second opinion on kv_codes/ (docs/kv_codes.md has the format).

    code = Code(bits, gain, weight, words)      # of a head's keys, or of its values; one entry a channel
    codes, e = encode(code, x)                  # x [n, d] float32 -> codes [n, d] uint8, scales [n]
    page = write_page(keys, values, k, v, positions)

Everything is spelt out slot by slot and field by field, so that it can be read beside the format and nothing is fast.
"""
from dataclasses import dataclass

import numpy as np

SLOTS, LINE = 32, 128
SCALES = np.array([2.0 ** ((e - 2) / 4) for e in range(8)])
QUERY_UNITS = 127 * (256**2 + 256 + 1)
WEIGHT_UNITS = 256**2 - 1


@dataclass
class Code:
    bits: np.ndarray    # uint8, 0 to 8
    gain: np.ndarray    # float32
    weight: np.ndarray  # float32
    words: int

    @property
    def zero(self):
        return ((1 << self.bits.astype(int)) - 1) / 2


# ---- codes of a vector ----------------------------------------------------------------------------------------------

def sum_rows(terms):
    """The sum of each row in the order that the format prescribes: eight lanes, then pairs."""
    n = terms.shape[1]
    if n > 128:
        half = n // 2 // 8 * 8
        return sum_rows(terms[:, :half]) + sum_rows(terms[:, half:])
    whole = n // 8 * 8 if n >= 8 else 0
    total = np.zeros(len(terms))
    if whole:
        lanes = terms[:, :8].copy()
        for at in range(8, whole, 8):
            lanes += terms[:, at:at + 8]
        while lanes.shape[1] > 1:
            lanes = lanes[:, 0::2] + lanes[:, 1::2]
        total = lanes[:, 0]
    for at in range(whole, n):
        total = total + terms[:, at]
    return total


def encode(code, x):
    """A code a channel, and of each row the e of the scale with the least weighted error."""
    assert x.dtype == np.float32
    best_codes, best_e, least = None, np.zeros(len(x), int), None
    for e, scale in enumerate(SCALES):
        with np.errstate(over="ignore"):  # far outside of the range
            steps = (code.gain * x / np.float32(scale)).astype(np.float64)
        codes = np.clip(np.floor(steps + code.zero + 0.5), 0, 2 * code.zero)
        error = sum_rows(((codes - code.zero) * scale - x)**2 * code.weight * (code.bits > 0))
        if least is None:
            best_codes, least = codes, error
            continue
        better = error < least
        best_codes = np.where(better[:, None], codes, best_codes)
        best_e, least = np.where(better, e, best_e), np.where(better, error, least)
    return best_codes.astype(np.uint8), best_e


def decode(code, codes, e):
    return (codes - code.zero) * SCALES[e][:, None]


# ---- bytes ----------------------------------------------------------------------------------------------------------

def place_fields(bits, words):
    """[(channel, byte, shift, width, low)]"""
    room, content = [8] * (4 * words), [[] for _ in range(4 * words)]
    for channel in sorted(range(len(bits)), key=lambda c: -int(bits[c])):
        rest = int(bits[channel])
        while rest:
            roomy = [byte for byte in range(4 * words) if room[byte] >= rest]
            byte = min(roomy, key=lambda b: room[b]) if roomy else max(range(4 * words), key=lambda b: room[b])
            width = min(rest, room[byte])
            rest -= width
            content[byte].append((channel, 8 - room[byte], width, rest))
            room[byte] -= width
    content.sort(key=len, reverse=True)
    return [(channel, byte, shift, width, low) for byte, fields in enumerate(content)
            for channel, shift, width, low in fields]


def columns_of(fields, codes, words):
    columns = np.zeros((len(codes), 4 * words), np.uint8)
    for channel, byte, shift, width, low in fields:
        part = codes[:, channel].astype(int) >> low & (1 << width) - 1
        columns[:, byte] |= (part << shift).astype(np.uint8)
    return columns


# ---- a page ---------------------------------------------------------------------------------------------------------

def key_place(slot, byte):
    word, group = byte // 4, slot % 8
    return LINE * word + 16 * (group ^ 2 * (word % 4)) + 4 * (slot // 8) + byte % 4


def mark_place(slot, key_words):
    return LINE * key_words + 4 * slot


def value_place(slot, byte, key_words):
    return LINE * (key_words + 1) + 32 * byte + 8 * (slot % 16 // 4) + 4 * (slot // 16) + slot % 4


def poison(key_words, value_words):
    """A page that was never written."""
    return (np.arange(LINE * (key_words + value_words + 1)) * 37 + 11).astype(np.uint8)


def write_page(page, key, value, keys, values, positions):
    """Writes the first slots of `page`; keys and values are [slots, d]."""
    for kind, code, x in ((0, key, keys), (1, value, values)):
        codes, e = encode(code, x)
        columns = columns_of(place_fields(code.bits, code.words), codes, code.words)
        for slot in range(len(x)):
            for byte, content in enumerate(columns[slot]):
                page[value_place(slot, byte, key.words) if kind else key_place(slot, byte)] = content
            mark = mark_place(slot, key.words)
            if kind == 0:
                page[mark:mark + 4] = [positions[slot] % 256, positions[slot] // 256, 0, e[slot]]
            else:
                page[mark + 3] |= e[slot] << 4


# ---- products -------------------------------------------------------------------------------------------------------

def query_digits(fields, query):
    """[fields, 3] signed digits, the greatest first, and the unit."""
    factors = np.array([float(query[channel]) * 2.0**(low - shift) for channel, _, shift, _, low in fields])
    unit = np.abs(factors).max(initial=1e-30) / QUERY_UNITS
    whole = np.rint(factors / unit).astype(np.int64)
    low = (whole + 128) % 256 - 128
    whole = (whole - low) // 256
    middle = (whole + 128) % 256 - 128
    return np.stack([(whole - middle) // 256, middle, low], 1), unit


def key_sums(page, fields, digits, slots):
    """[3, slots]"""
    sums = np.zeros((3, slots), np.int64)
    for (_, byte, shift, width, _), row in zip(fields, digits):
        for slot in range(slots):
            sums[:, slot] += row * (int(page[key_place(slot, byte)]) & ((1 << width) - 1 << shift))
    return sums


def scales(page, kind, key_words, slots):
    """Of the keys (kind 0) or the values (1)."""
    return SCALES[[page[mark_place(slot, key_words) + 3] >> 4 * kind & 15 for slot in range(slots)]]


def logits(page, code, query, slots):
    fields = place_fields(code.bits, code.words)
    digits, unit = query_digits(fields, query)
    sums = key_sums(page, fields, digits, slots)
    centre = (query.astype(np.float64) * code.zero).sum()
    return scales(page, 0, code.words, slots) * (unit * (sums[0] * 65536 + sums[1] * 256 + sums[2]) - centre)


def weight_digits(page, key_words, weights):
    """[slots, 2] digits, the greatest first, the unit, and the weights times their scales."""
    scaled = weights.astype(np.float64) * scales(page, 1, key_words, len(weights))
    unit = max(scaled.max(), 1e-30) / WEIGHT_UNITS
    whole = np.rint(scaled / unit).astype(np.int64)
    return np.stack([whole // 256, whole % 256], 1), unit, scaled


def value_sums(page, key_words, fields, digits):
    """[fields]"""
    whole = digits[:, 0] * 256 + digits[:, 1]
    return np.array([sum(int(whole[slot]) * (int(page[value_place(slot, byte, key_words)]) & ((1 << width) - 1 << shift))
                         for slot in range(len(digits))) for _, byte, shift, width, _ in fields])


def output(page, key_words, code, weights):
    """The sum over slots of weight times decoded value, [d]."""
    fields = place_fields(code.bits, code.words)
    digits, unit, scaled = weight_digits(page, key_words, weights)
    out = -code.zero * scaled.sum()
    for (channel, _, shift, _, low), part in zip(fields, value_sums(page, key_words, fields, digits)):
        out[channel] += unit * part * 2.0**(low - shift)
    return out


# ---- scores of 8 bits -----------------------------------------------------------------------------------------------

def score_value(score):
    return np.float32(2.0 ** ((score - 160) / 8))


def round_score(total, random):
    """A float32 sum as a score, by a random number of 32 bits."""
    total = np.float32(total)
    if total < score_value(0):
        return 0
    if total >= score_value(255):
        return 255
    below = max(score for score in range(255) if score_value(score) <= total)
    low, high = (float(score_value(score)) for score in (below, below + 1))
    # Both differences and the product are exact in float64 with 24 + 32 bits but for the last few: so in integers.
    unit = 2.0 ** (np.floor(np.log2(low)) - 23)
    return below + (random * int((high - low) / unit) >> 32 < int((float(total) - low) / unit))


def philox(key, a, b):
    """Philox4x32-10 (Salmon et al., 2011): four words for the counter (a, b) under `key`."""
    counter = [a & 0xFFFFFFFF, a >> 32, b & 0xFFFFFFFF, b >> 32]
    keys = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(second >> 32) ^ counter[1] ^ keys[0], second & 0xFFFFFFFF,
                   (first >> 32) ^ counter[3] ^ keys[1], first & 0xFFFFFFFF]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def score_random(sequence, layer, head, step, position):
    """The 32 bits that round the score of `position` in a step of a head."""
    h = philox(sequence, layer << 32 | head, step)[0] ^ position
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16

// A page of coded keys and values: kPageSlots slots of one layer and one head
// of one sequence, like those of base/kv_page.h.  In lines of 128 bytes, for a
// head whose keys have k words and whose values have v:
//
//   keys    k lines   line w: word w of all slots
//   marks   1 line    a SlotMark for each slot
//   scores  1 line    a float32 for each slot; only if `float_scores`
//   values  v lines   line w: byte columns 4 w to 4 w + 3, 32 bytes each
//
// The order within a line is that of the tensor cores' operands (m16n8k32).
// Four lanes times eight groups read 16 bytes of keys each: slots g, g + 8,
// g + 16 and g + 24 of a word.  They read 8 bytes of a value column: slots 4 t
// to 4 t + 3 and 16 + 4 t to 16 + 4 t + 3.  The exclusive or in a key's address
// keeps lanes off each other's banks of shared memory.  Marks lie in the
// middle, so that either half of a page is one run of bytes with its marks.
//
// A slot that was never written may hold anything: kernels give it no weight.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "base/dtype.h"
#include "base/kv_page.h"
#include "kv_codes/code_fields.h"

namespace h2o {

// What a page says of a slot beside its codes.
struct SlotMark {
  uint16_t position = 0;  // of the token
  uint8_t score = 0;      // kv_codes/coded_score.h; unused with float scores
  uint8_t scales = 0;     // e of the key, and 16 times e of the value

  constexpr int key_scale() const { return scales & 15; }
  constexpr int value_scale() const { return scales >> 4; }
  friend constexpr bool operator==(const SlotMark&, const SlotMark&) = default;
};
static_assert(sizeof(SlotMark) == 4);

constexpr SlotMark MarkOf(int position, int key_scale, int value_scale) {
  return {.position = static_cast<uint16_t>(position),
          .scales = static_cast<uint8_t>(key_scale | value_scale << 4)};
}

// Where everything lies, in bytes from the start of the page.
struct CodedPageLayout {
  int key_words = 0;
  int value_words = 0;
  bool float_scores = false;  // the score rule that sums exactly

  // Byte column `byte` of a slot's key.
  constexpr int KeyByte(int slot, int byte) const {
    const int word = byte / kWordBytes;
    const int group = slot % 8 ^ 2 * (word % 4);
    return kLineBytes * word + 16 * group + 4 * (slot / 8) + byte % kWordBytes;
  }
  constexpr int MarkOffset(int slot) const {
    return kLineBytes * key_words + 4 * slot;
  }
  // REQUIRES: float_scores.
  constexpr int ScoreOffset(int slot) const {
    return kLineBytes * (key_words + 1) + 4 * slot;
  }
  // Byte column `byte` of a slot's value.
  constexpr int ValueByte(int slot, int byte) const {
    return kLineBytes * (key_words + MarkLines()) + kPageSlots * byte +
           8 * (slot % 16 / 4) + 4 * (slot / 16) + slot % 4;
  }
  constexpr int PageBytes() const {
    return kLineBytes * (key_words + MarkLines() + value_words);
  }

  friend constexpr bool operator==(const CodedPageLayout&,
                                   const CodedPageLayout&) = default;

 private:
  constexpr int MarkLines() const { return float_scores ? 2 : 1; }
};

// The page of a head's exact slots: the first tokens of its sequence, up to
// kMaxExactSlots, which are stored as they are in the coded basis and never
// evicted.  Slot s is position s, so nothing is marked.
inline constexpr int kMaxExactSlots = 4;
struct ExactPageLayout {
  int head_dim = 0;
  DType dtype = DType::kBFloat16;

  constexpr int KeyOffset(int slot) const { return 2 * slot * RowBytes(); }
  constexpr int ValueOffset(int slot) const {
    return (2 * slot + 1) * RowBytes();
  }
  constexpr int PageBytes() const {
    return static_cast<int>(
        CeilDiv(2 * kMaxExactSlots * RowBytes(), kLineBytes) * kLineBytes);
  }

 private:
  constexpr int RowBytes() const {
    return head_dim * static_cast<int>(SizeOf(dtype));
  }
};

// One slot of a page, on the host.  `key` and `value` are byte columns, all of
// them (PutCodes).
void WriteSlot(const CodedPageLayout& layout, int slot,
               absl::Span<const uint8_t> key, absl::Span<const uint8_t> value,
               const SlotMark& mark, std::byte* page);
void ReadSlot(const CodedPageLayout& layout, int slot, const std::byte* page,
              absl::Span<uint8_t> key, absl::Span<uint8_t> value,
              SlotMark* mark);

}  // namespace h2o

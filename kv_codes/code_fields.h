// Where the codes of a vector lie in its bytes.
//
// A vector of w words has 4 w byte columns.  A code that lies in one byte is
// one field; a code that no byte has room for is cut into several.  A byte is
// read by masking it where it lies: byte & mask is the field's bits times
// 2^shift, and the factor 2^(low - shift) makes them the code's.  So a product
// with codes needs no shifting.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace h2o {

inline constexpr int kMaxCodeBits = 8;  // of a channel
inline constexpr int kWordBits = 32;
inline constexpr int kWordBytes = 4;

// Bits [low, low + width) of a channel's code are bits [shift, shift + width)
// of byte column `byte`.
struct CodeField {
  int16_t channel = 0;
  int16_t byte = 0;
  uint8_t shift = 0;
  uint8_t width = 0;
  uint8_t low = 0;

  constexpr uint8_t mask() const {
    return static_cast<uint8_t>(((1u << width) - 1) << shift);
  }
  friend constexpr bool operator==(const CodeField&,
                                   const CodeField&) = default;
};

// The most words that a vector of `head_dim` channels can fill.
constexpr int MaxWords(int head_dim) {
  return (head_dim * kMaxCodeBits + kWordBits - 1) / kWordBits;
}

// The fields of a vector whose channels have `bits`, byte after byte.  The wide
// codes are placed first, each in the fullest byte with room for it.  If there
// is none, the code is cut: its high bits fill the emptiest byte.  Then bytes
// are ordered by falling number of fields.  All numbers are integers, so every
// implementation places alike.
// REQUIRES: bits are at most kMaxCodeBits, and their sum at most 32 * words.
std::vector<CodeField> PlaceFields(absl::Span<const uint8_t> bits, int words);

// Writes codes into byte columns, all of which are set.
void PutCodes(absl::Span<const CodeField> fields,
              absl::Span<const uint8_t> codes, absl::Span<uint8_t> columns);
// Reads them back.  Channels without a field get 0.
void TakeCodes(absl::Span<const CodeField> fields,
               absl::Span<const uint8_t> columns, absl::Span<uint8_t> codes);

}  // namespace h2o

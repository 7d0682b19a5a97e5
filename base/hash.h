// FNV-1a (Fowler, Noll, Vo), 64 bits: a hash with the same value on every
// machine.  It finds accidents, not attacks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace h2o {

class Fnv1a {
 public:
  Fnv1a& AddBytes(const void* data, size_t num_bytes) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < num_bytes; ++i) AddByte(bytes[i]);
    return *this;
  }
  // The eight bytes of `number`, lowest first.
  Fnv1a& AddNumber(uint64_t number) {
    for (int i = 0; i < 8; ++i) {
      AddByte(static_cast<unsigned char>(number >> (8 * i)));
    }
    return *this;
  }
  // The length of `text` as a number, then its bytes: {"ab", "c"} and
  // {"a", "bc"} differ.
  Fnv1a& AddText(std::string_view text) {
    return AddNumber(text.size()).AddBytes(text.data(), text.size());
  }

  uint64_t value() const { return value_; }
  // The value as 16 hexadecimal digits.
  std::string Hex() const {
    return absl::StrCat(absl::Hex(value_, absl::kZeroPad16));
  }

 private:
  void AddByte(unsigned char byte) {
    value_ = (value_ ^ byte) * 0x100000001b3u;
  }

  uint64_t value_ = 0xcbf29ce484222325u;
};

}  // namespace h2o

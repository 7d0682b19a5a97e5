// Finds characters in bytes, and the bytes that belong to none.
#include "base/utf8.h"

#include "absl/strings/str_cat.h"

namespace h2o {

Utf8Character FirstCharacter(std::string_view bytes) {
  const auto at = [&](size_t i) {
    return static_cast<unsigned char>(bytes[i]);
  };
  const unsigned lead = at(0);
  if (lead < 0x80) return {.length = 1};
  if (lead < 0xc2 || lead > 0xf4) return {.bad_bytes = 1};
  const int length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) == bytes.size()) {
      return {.bad_bytes = i, .unfinished = true};
    }
    unsigned low = 0x80, high = 0xbf;
    if (i == 1) {
      if (lead == 0xe0) low = 0xa0;   // overlong
      if (lead == 0xed) high = 0x9f;  // surrogates
      if (lead == 0xf0) low = 0x90;   // overlong
      if (lead == 0xf4) high = 0x8f;  // above U+10FFFF
    }
    if (at(i) < low || at(i) > high) return {.bad_bytes = i};
  }
  return {.length = length};
}

absl::Status CheckUtf8(std::string_view field, std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const int length = FirstCharacter(text.substr(i)).length;
    if (length == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(absl::string_view(field.data(), field.size()),
                       " is not UTF-8: byte 0x",
                       absl::Hex(static_cast<unsigned char>(text[i])),
                       " at offset ", i, " begins no character"));
    }
    i += length;
  }
  return absl::OkStatus();
}

}  // namespace h2o

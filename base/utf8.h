// UTF-8: which bytes are well-formed characters (RFC 3629; The Unicode
// Standard, table 3-7).  No overlong forms, no surrogates, at most U+10FFFF.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/status.h"

namespace h2o {

// What stands at the front of some bytes.
struct Utf8Character {
  int length = 0;  // bytes of the character; 0: they begin no character
  // With length 0: the bytes that one U+FFFD replaces, at least one.
  int bad_bytes = 0;
  // With length 0: the bytes end in the middle of a character.
  bool unfinished = false;
};
// REQUIRES: `bytes` is not empty.
Utf8Character FirstCharacter(std::string_view bytes);

// Errors: INVALID_ARGUMENT with the name `field`, the first bad byte and its
// offset.
absl::Status CheckUtf8(std::string_view field, std::string_view text);

}  // namespace h2o

// What strangers say, made fit for a line of a log or of an error message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace h2o {

inline constexpr size_t kMaxQuotedBytes = 256;

// `text` in at most `most` bytes: a longer one is cut at a character and ends
// with its length, "abc... (60000000 bytes)".  Control characters become '?'.
// REQUIRES: most >= 64.
std::string CutText(std::string_view text, size_t most = kMaxQuotedBytes);

}  // namespace h2o

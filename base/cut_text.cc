// Cuts what strangers say before it is logged or echoed.
#include "base/cut_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace h2o {
namespace {

bool IsInsideCharacter(char c) {  // of UTF-8
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

bool IsControl(char c) {
  return static_cast<unsigned char>(c) < ' ' || c == 0x7f;
}

}  // namespace

std::string CutText(std::string_view text, size_t most) {
  H2O_CHECK(most >= 64) << most;
  std::string mark;
  if (text.size() > most) {
    mark = absl::StrCat("... (", text.size(), " bytes)");
    size_t end = most - mark.size();
    while (end > 0 && IsInsideCharacter(text[end])) --end;
    text = text.substr(0, end);
  }
  std::string cut(text);
  std::replace_if(cut.begin(), cut.end(), IsControl, '?');
  return cut + mark;
}

}  // namespace h2o

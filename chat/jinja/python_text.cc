// Python's functions of texts, on UTF-8.
#include "chat/jinja/python_text.h"

#include <algorithm>
#include <charconv>
#include <clocale>
#include <cmath>
#include <cstdlib>
#include <cwctype>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/utf8.h"

namespace h2o::jinja {
namespace {

// The code of the character at the front.  REQUIRES: text is not empty.
uint32_t CodeOf(std::string_view text, size_t* length) {
  *length = std::max(1, FirstCharacter(text).length);
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  switch (*length) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1fU) << 6 | (byte(1) & 0x3fU);
    case 3:
      return (byte(0) & 0x0fU) << 12 | (byte(1) & 0x3fU) << 6 |
             (byte(2) & 0x3fU);
    default:
      return (byte(0) & 0x07U) << 18 | (byte(1) & 0x3fU) << 12 |
             (byte(2) & 0x3fU) << 6 | (byte(3) & 0x3fU);
  }
}

// Unicode's tables, whatever the locale of this process is.
locale_t Unicode() {
  static const locale_t kUnicode =
      newlocale(LC_CTYPE_MASK, "C.UTF-8", static_cast<locale_t>(nullptr));
  return kUnicode;
}

uint32_t UpperOf(uint32_t code) {
  if (code < 0x80) return code >= 'a' && code <= 'z' ? code - 32 : code;
  return Unicode() == nullptr ? code : towupper_l(code, Unicode());
}

uint32_t LowerOf(uint32_t code) {
  if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + 32 : code;
  return Unicode() == nullptr ? code : towlower_l(code, Unicode());
}

// The letters that have two cases.
bool IsCased(uint32_t code) {
  return UpperOf(code) != code || LowerOf(code) != code;
}

// str.isspace (Unicode's white space, and the four separators of ASCII).
bool IsSpace(uint32_t code) {
  return (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x20) ||
         code == 0x85 || code == 0xa0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

// str.isprintable of one character.
bool IsPrintable(uint32_t code) {
  if (code < 0x7f) return code >= 0x20;
  if (code < 0xa1 || code == 0xad || IsSpace(code)) return false;
  if ((code >= 0x200b && code <= 0x200f) ||
      (code >= 0x202a && code <= 0x202e) ||
      (code >= 0x2060 && code <= 0x206f) || code == 0xfeff) {
    return false;  // formatting
  }
  return Unicode() == nullptr || iswprint_l(code, Unicode()) != 0;
}

template <class Map>
std::string MapCharacters(std::string_view text, Map map) {
  std::string mapped;
  mapped.reserve(text.size());
  while (!text.empty()) {
    size_t length = 0;
    const uint32_t code = CodeOf(text, &length);
    AppendCharacter(map(code), &mapped);
    text.remove_prefix(length);
  }
  return mapped;
}

// The bytes of the last character.
size_t LastLength(std::string_view text) {
  size_t length = 1;
  while (length < text.size() && length < 4 &&
         (static_cast<uint8_t>(text[text.size() - length]) & 0xc0) == 0x80) {
    ++length;
  }
  return length;
}

template <class Drop>
std::string_view DropFront(std::string_view text, Drop drop) {
  while (!text.empty()) {
    const size_t length = std::max(1, FirstCharacter(text).length);
    if (!drop(text.substr(0, length))) break;
    text.remove_prefix(length);
  }
  return text;
}

template <class Drop>
std::string_view DropBack(std::string_view text, Drop drop) {
  while (!text.empty()) {
    const size_t length = LastLength(text);
    if (!drop(text.substr(text.size() - length))) break;
    text.remove_suffix(length);
  }
  return text;
}

bool IsSpaceText(std::string_view character) {
  size_t length = 0;
  return BeginsWithSpace(character, &length);
}

void AppendEscaped(uint32_t code, std::string* out) {
  if (code <= 0xff) {
    absl::StrAppendFormat(out, "\\x%02x", code);
  } else if (code <= 0xffff) {
    absl::StrAppendFormat(out, "\\u%04x", code);
  } else {
    absl::StrAppendFormat(out, "\\U%08x", code);
  }
}

void AppendJsonEscaped(uint32_t code, std::string* out) {
  if (code > 0xffff) {
    absl::StrAppendFormat(out, "\\u%04x\\u%04x",
                          0xd800 + ((code - 0x10000) >> 10),
                          0xdc00 + ((code - 0x10000) & 0x3ff));
  } else {
    absl::StrAppendFormat(out, "\\u%04x", code);
  }
}

// The letter of a short escape such as \n; 0: there is none.
char ShortEscape(uint32_t code) {
  switch (code) {
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    default:
      return 0;
  }
}

// The bytes of the line's end at the front of `text`; 0: none is there.
// The ends are those of str.splitlines.
size_t LineEnd(std::string_view text) {
  if (text.starts_with("\r\n")) return 2;
  size_t length = 0;
  const uint32_t code = CodeOf(text, &length);
  const bool is_end = (code >= 0x0a && code <= 0x0d) ||
                      (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
                      code == 0x2028 || code == 0x2029;
  return is_end ? length : 0;
}

}  // namespace

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<uint8_t>(c) & 0xc0) != 0x80;
  });
}

size_t OffsetOf(std::string_view text, int64_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) {
    at += std::max(1, FirstCharacter(text.substr(at)).length);
  }
  return at;
}

std::vector<std::string_view> CharactersOf(std::string_view text) {
  std::vector<std::string_view> characters;
  while (!text.empty()) {
    const size_t length = std::max(1, FirstCharacter(text).length);
    characters.push_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return characters;
}

bool BeginsWithSpace(std::string_view text, size_t* length) {
  return !text.empty() && IsSpace(CodeOf(text, length));
}

std::string_view StripLeft(std::string_view text) {
  return DropFront(text, IsSpaceText);
}

std::string_view StripRight(std::string_view text) {
  return DropBack(text, IsSpaceText);
}

std::string_view StripLeft(std::string_view text, std::string_view characters) {
  return DropFront(text, [&](std::string_view c) {
    return characters.find(c) != std::string_view::npos;
  });
}

std::string_view StripRight(std::string_view text,
                            std::string_view characters) {
  return DropBack(text, [&](std::string_view c) {
    return characters.find(c) != std::string_view::npos;
  });
}

std::string Upper(std::string_view text) {
  return MapCharacters(text, UpperOf);
}

std::string Lower(std::string_view text) {
  return MapCharacters(text, LowerOf);
}

std::string Capitalize(std::string_view text) {
  bool first = true;
  return MapCharacters(text, [&](uint32_t code) {
    return std::exchange(first, false) ? UpperOf(code) : LowerOf(code);
  });
}

std::string Title(std::string_view text) {
  bool in_word = false;
  return MapCharacters(text, [&](uint32_t code) {
    const bool begins = !std::exchange(in_word, IsCased(code));
    return begins ? UpperOf(code) : LowerOf(code);
  });
}

std::string Quote(std::string_view text) {
  // Python takes double quotes only where that saves escapes.
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string quoted(1, quote);
  while (!text.empty()) {
    size_t length = 0;
    const uint32_t code = CodeOf(text, &length);
    if (code == static_cast<uint8_t>(quote) || code == '\\') {
      quoted += '\\';
      quoted += static_cast<char>(code);
    } else if (const char letter = ShortEscape(code); letter != 0) {
      quoted += '\\';
      quoted += letter;
    } else if (IsPrintable(code)) {
      quoted += text.substr(0, length);
    } else {
      AppendEscaped(code, &quoted);
    }
    text.remove_prefix(length);
  }
  quoted += quote;
  return quoted;
}

std::string JsonQuote(std::string_view text, bool ascii) {
  std::string quoted = "\"";
  while (!text.empty()) {
    size_t length = 0;
    const uint32_t code = CodeOf(text, &length);
    const char letter = code == '\b'   ? 'b'
                        : code == '\f' ? 'f'
                                       : ShortEscape(code);
    if (code == '"' || code == '\\') {
      quoted += '\\';
      quoted += static_cast<char>(code);
    } else if (letter != 0) {
      quoted += '\\';
      quoted += letter;
    } else if (code < 0x20 || (ascii && code > 0x7e)) {
      if (code == 0x7f) {
        quoted += '\x7f';  // Python leaves it
      } else {
        AppendJsonEscaped(code, &quoted);
      }
    } else {
      quoted += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  quoted += '"';
  return quoted;
}

std::string FormatDouble(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const double size = std::fabs(number);
  // Python writes an exponent below 1e-4 and from 1e16 on.
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number,
                                 plain ? std::chars_format::fixed
                                       : std::chars_format::scientific)
                       .ptr;
  std::string text(buffer, end);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::vector<std::string_view> SplitAtSpace(std::string_view text,
                                           int64_t most) {
  std::vector<std::string_view> parts;
  text = StripLeft(text);
  while (!text.empty()) {
    if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
      parts.push_back(text);
      break;
    }
    size_t end = 0, length = 0;
    while (end < text.size() && !BeginsWithSpace(text.substr(end), &length)) {
      end += length;
    }
    parts.push_back(text.substr(0, end));
    text = StripLeft(text.substr(end));
  }
  return parts;
}

std::vector<std::string_view> Split(std::string_view text,
                                    std::string_view separator, int64_t most) {
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t at = text.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.push_back(text);
  return parts;
}

std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::string_view separator,
                                             int64_t most) {
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    size_t end = 0, length = 0;
    while (end < text.size() && LineEnd(text.substr(end)) == 0) {
      BeginsWithSpace(text.substr(end), &length);
      end += length;
    }
    lines.push_back(text.substr(0, end));
    if (end < text.size()) end += LineEnd(text.substr(end));
    text.remove_prefix(end);
  }
  return lines;
}

std::string Replace(std::string_view text, std::string_view from,
                    std::string_view to, int64_t most) {
  std::string out;
  const auto may = [&] {
    if (most == 0) return false;
    if (most > 0) --most;
    return true;
  };
  if (from.empty()) {
    for (std::string_view character : CharactersOf(text)) {
      if (may()) out += to;
      out += character;
    }
    if (may()) out += to;
    return out;
  }
  while (true) {
    const size_t at = text.find(from);
    if (at == std::string_view::npos || !may()) break;
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
  }
  out += text;
  return out;
}

bool AppendCharacter(uint32_t code, std::string* out) {
  if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
  const auto byte = [&](uint32_t bits) { *out += static_cast<char>(bits); };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xc0 | code >> 6);
    byte(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    byte(0xe0 | code >> 12);
    byte(0x80 | (code >> 6 & 0x3f));
    byte(0x80 | (code & 0x3f));
  } else {
    byte(0xf0 | code >> 18);
    byte(0x80 | (code >> 12 & 0x3f));
    byte(0x80 | (code >> 6 & 0x3f));
    byte(0x80 | (code & 0x3f));
  }
  return true;
}

}  // namespace h2o::jinja

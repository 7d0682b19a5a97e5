// The tokens of a template.
#include "chat/jinja/lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "chat/jinja/python_text.h"

namespace h2o::jinja {
namespace {

constexpr auto npos = std::string_view::npos;

bool IsNameByte(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Every end of a line as \n, without the one at the end of the template.
std::string Normalize(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

// 99: no digit of any base.
int DigitValue(char c) {
  if (IsDigit(c)) return c - '0';
  return absl::ascii_isxdigit(static_cast<unsigned char>(c))
             ? (c | 0x20) - 'a' + 10
             : 99;
}

// The digits of `base` at the front, with single underscores between them.
std::string Digits(std::string_view text, int base, size_t* length) {
  std::string digits;
  size_t i = 0;
  while (i < text.size()) {
    const bool underscore = text[i] == '_' && !digits.empty() &&
                            i + 1 < text.size() &&
                            DigitValue(text[i + 1]) < base;
    if (underscore) ++i;
    if (DigitValue(text[i]) >= base) break;
    digits += text[i++];
  }
  *length = i;
  return digits;
}

// \xHH, \uHHHH, \UHHHHHHHH or \ooo; `raw` begins behind the backslash.
absl::Status UnescapeNumber(std::string_view* raw, std::string* text) {
  const char letter = (*raw)[0];
  const bool octal = letter >= '0' && letter <= '7';
  const size_t most = letter == 'x'   ? 2
                      : letter == 'u' ? 4
                      : letter == 'U' ? 8
                      : octal         ? 3
                                      : 0;
  if (most == 0) {  // Python leaves unknown escapes as they are
    *text += '\\';
    return absl::OkStatus();
  }
  const int base = octal ? 8 : 16;
  if (!octal) raw->remove_prefix(1);
  size_t length = 0;
  while (length < std::min(most, raw->size()) &&
         DigitValue((*raw)[length]) < base) {
    ++length;
  }
  uint32_t code = 0;
  const std::string_view digits = raw->substr(0, length);
  std::from_chars(digits.begin(), digits.end(), code, base);
  if ((!octal && length != most) || !AppendCharacter(code, text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a bad escape \\", std::string(1, letter), " in a text"));
  }
  raw->remove_prefix(length);
  return absl::OkStatus();
}

// Appends a text in quotes without Python's escapes.
absl::Status Unescape(std::string_view raw, std::string* text) {
  constexpr std::string_view kLetters = "abfnrtv\\'\"\n";
  constexpr std::string_view kMeaning = "\a\b\f\n\r\t\v\\'\"";
  while (!raw.empty()) {
    const size_t slash = raw.find('\\');
    *text += raw.substr(0, slash);
    if (slash == npos) break;
    raw.remove_prefix(slash + 1);
    const char letter = raw[0];
    const size_t at = kLetters.find(letter);
    if (letter == 'N') {
      return absl::InvalidArgumentError("\\N{..} in a text is not supported");
    }
    if (at == npos) {
      H2O_RETURN_IF_ERROR(UnescapeNumber(&raw, text));
      continue;
    }
    if (at < kMeaning.size()) *text += kMeaning[at];  // not the end of a line
    raw.remove_prefix(1);
  }
  return absl::OkStatus();
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : rest_(source) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (!rest_.empty()) {
      H2O_RETURN_IF_ERROR(ReadDataAndBlock());
    }
    Add(Token::Kind::kEnd);
    return std::move(tokens_);
  }

 private:
  absl::Status Fault(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", line_, ": ", what));
  }

  void Add(Token::Kind kind, std::string_view text = {}) {
    tokens_.push_back({.kind = kind, .line = line_, .text = std::string(text)});
  }

  // Goes on behind `bytes`, counting lines.
  void Skip(size_t bytes) {
    line_ += std::count(rest_.begin(), rest_.begin() + bytes, '\n');
    if (bytes > 0) line_starting_ = rest_[bytes - 1] == '\n';
    rest_.remove_prefix(bytes);
  }

  void SkipSpace() { Skip(rest_.size() - StripLeft(rest_).size()); }

  // Text up to the next block, then the block.
  absl::Status ReadDataAndBlock() {
    size_t at = rest_.find('{');
    while (at != npos && at + 1 < rest_.size() &&
           std::string_view("{%#").find(rest_[at + 1]) == npos) {
      at = rest_.find('{', at + 1);
    }
    if (at == npos || at + 1 >= rest_.size()) {
      Add(Token::Kind::kData, rest_);
      Skip(rest_.size());
      return absl::OkStatus();
    }
    const char opener = rest_[at + 1];
    const char sign = at + 2 < rest_.size() ? rest_[at + 2] : 0;
    const std::string_view data = DataBefore(rest_.substr(0, at), opener, sign);
    if (!data.empty()) Add(Token::Kind::kData, data);
    Skip(at);
    Skip(sign == '-' || sign == '+' ? 3 : 2);
    if (opener == '#') return SkipComment();
    return ReadBlock(opener == '%');
  }

  // `data` without the white space that the block behind it takes away.
  std::string_view DataBefore(std::string_view data, char opener,
                              char sign) const {
    if (sign == '-') return StripRight(data);
    if (sign == '+' || opener == '{') return data;
    const size_t newline = data.rfind('\n');
    const size_t begin = newline == npos ? 0 : newline + 1;
    if (newline == npos && !line_starting_) return data;
    if (!StripLeft(data.substr(begin)).empty()) return data;
    return data.substr(0, begin);
  }

  // Behind a block's end: -%} takes all white space, %} the end of the line.
  void SkipBehind(char sign, bool trims_line) {
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && trims_line && rest_.starts_with('\n')) {
      Skip(1);
    }
  }

  absl::Status SkipComment() {
    const size_t end = rest_.find("#}");
    if (end == npos) return Fault("a comment {# has no end #}");
    const char sign = end > 0 ? rest_[end - 1] : 0;
    Skip(end + 2);
    SkipBehind(sign, true);
    return absl::OkStatus();
  }

  absl::Status ReadBlock(bool is_block) {
    using Kind = Token::Kind;
    Add(is_block ? Kind::kBlockBegin : Kind::kPrintBegin);
    const std::string_view end = is_block ? "%}" : "}}";
    const int begin_line = line_;
    while (true) {
      SkipSpace();
      const bool signed_end =
          !rest_.empty() &&
          (rest_[0] == '-' || (is_block && rest_[0] == '+')) &&
          rest_.substr(1).starts_with(end);
      if (brackets_.empty() && (signed_end || rest_.starts_with(end))) {
        const char sign = signed_end ? rest_[0] : 0;
        Add(is_block ? Kind::kBlockEnd : Kind::kPrintEnd);
        Skip(signed_end ? 3 : 2);
        SkipBehind(sign, is_block);
        return absl::OkStatus();
      }
      if (rest_.empty()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "line ", begin_line, ": a block has no end ", std::string(end)));
      }
      H2O_RETURN_IF_ERROR(ReadToken());
    }
  }

  absl::Status ReadToken() {
    const char c = rest_[0];
    if (IsDigit(c)) return ReadNumber();
    if (c == '"' || c == '\'') return ReadText();
    if (IsNameByte(c)) {
      size_t length = 1;
      while (length < rest_.size() && IsNameByte(rest_[length])) ++length;
      Add(Token::Kind::kName, rest_.substr(0, length));
      Skip(length);
      return absl::OkStatus();
    }
    return ReadSign();
  }

  absl::Status ReadSign() {
    constexpr std::string_view kSigns[] = {
        "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "(",
        ")",  "[",  "]",  "{",  "}",  "<",  ">", "=", ".", ":", "|", ",", ";"};
    for (std::string_view sign : kSigns) {
      if (!rest_.starts_with(sign)) continue;
      H2O_RETURN_IF_ERROR(CheckBracket(sign[0]));
      Add(Token::Kind::kSign, sign);
      Skip(sign.size());
      return absl::OkStatus();
    }
    return Fault(absl::StrCat(
        "what is ", Quote(CharactersOf(rest_.substr(0, 4))[0]), " here?"));
  }

  // Within brackets, a block does not end.
  absl::Status CheckBracket(char sign) {
    const size_t opener = std::string_view("([{").find(sign);
    if (opener != npos) brackets_ += ")]}"[opener];
    if (std::string_view(")]}").find(sign) == npos) return absl::OkStatus();
    if (brackets_.empty() || brackets_.back() != sign) {
      return Fault(
          absl::StrCat("'", std::string(1, sign), "' closes no bracket"));
    }
    brackets_.pop_back();
    return absl::OkStatus();
  }

  absl::Status ReadNumber() {
    size_t length = 0;
    if (rest_[0] == '0' && rest_.size() > 1) {
      const char kind = static_cast<char>(rest_[1] | 0x20);
      const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
      const std::string digits =
          base == 0 ? "" : Digits(rest_.substr(2), base, &length);
      if (!digits.empty()) return AddInteger(digits, base, length + 2);
    }
    std::string digits = Digits(rest_, 10, &length);
    size_t fraction = 0, exponent = 0;
    std::string real = digits;
    if (rest_.substr(length).starts_with('.')) {
      const std::string behind =
          Digits(rest_.substr(length + 1), 10, &fraction);
      if (fraction > 0) {
        real += '.';
        real += behind;
        ++fraction;
      }
    }
    std::string_view power = rest_.substr(length + fraction);
    if (!power.empty() && (power[0] | 0x20) == 'e') {
      const size_t sign =
          power.size() > 1 && (power[1] == '+' || power[1] == '-');
      const std::string behind = Digits(power.substr(1 + sign), 10, &exponent);
      if (exponent > 0) {
        real += 'e';
        real += power.substr(1, sign);
        real += behind;
        exponent += 1 + sign;
      }
    }
    if (fraction + exponent == 0) return AddInteger(digits, 10, length);
    Token token{.kind = Token::Kind::kFloat, .line = line_};
    if (!absl::SimpleAtod(real, &token.number)) return Fault("a bad number");
    tokens_.push_back(std::move(token));
    Skip(length + fraction + exponent);
    return absl::OkStatus();
  }

  absl::Status AddInteger(const std::string& digits, int base, size_t length) {
    if (base == 10 && digits.size() > 1 && digits[0] == '0' &&
        digits.find_first_not_of('0') != npos) {
      return Fault("a number begins with 0");
    }
    Token token{.kind = Token::Kind::kInteger, .line = line_};
    const auto read = std::from_chars(
        digits.data(), digits.data() + digits.size(), token.integer, base);
    if (read.ec != std::errc()) return Fault("an integer over 64 bits");
    tokens_.push_back(std::move(token));
    Skip(length);
    return absl::OkStatus();
  }

  absl::Status ReadText() {
    const char quote = rest_[0];
    size_t end = 1;
    while (end < rest_.size() && rest_[end] != quote) {
      end += rest_[end] == '\\' ? 2 : 1;
    }
    if (end >= rest_.size()) return Fault("a text in quotes has no end");
    std::string text;
    const absl::Status status = Unescape(rest_.substr(1, end - 1), &text);
    if (!status.ok()) return Fault(std::string(status.message()));
    Add(Token::Kind::kText, text);
    Skip(end + 1);
    return absl::OkStatus();
  }

  std::string_view rest_;
  int line_ = 1;
  bool line_starting_ = true;  // what was read last ended with a line
  std::string brackets_;       // that must close, the innermost last
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  H2O_RETURN_IF_ERROR(CheckUtf8("the template", source));
  const std::string text = Normalize(source);
  return Lexer(text).Run();
}

}  // namespace h2o::jinja

// The tokens of a template, one after another.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "chat/jinja/lexer.h"

namespace h2o::jinja {

class TokenStream {
 public:
  using Kind = Token::Kind;

  // REQUIRES: the last token is a kEnd.
  explicit TokenStream(std::vector<Token> tokens)
      : tokens_(std::move(tokens)) {}

  const Token& Now() const { return tokens_[at_]; }
  const Token& Ahead() const {
    return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_];
  }
  bool Is(Kind kind) const { return Now().kind == kind; }
  bool Is(Kind kind, std::string_view text) const {
    return Is(kind) && Now().text == text;
  }
  bool IsSign(std::string_view text) const { return Is(Kind::kSign, text); }
  bool IsName(std::string_view text) const { return Is(Kind::kName, text); }

  // The token, and on to the next.
  const Token& Take() {
    const Token& token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  // Takes the token if it is this one.
  bool Skip(Kind kind, std::string_view text) {
    const bool is = Is(kind, text);
    if (is) Take();
    return is;
  }
  bool SkipSign(std::string_view text) { return Skip(Kind::kSign, text); }
  bool SkipName(std::string_view text) { return Skip(Kind::kName, text); }

  // Errors of all: INVALID_ARGUMENT with the line.
  absl::Status Fault(const std::string& what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("line ", Now().line, ": ", what));
  }
  absl::Status Expect(Kind kind, std::string_view text = {}) {
    if (Is(kind) && (text.empty() || Now().text == text)) {
      Take();
      return absl::OkStatus();
    }
    return Fault(absl::StrCat("expected ", Name(kind, text), ", not ",
                              Name(Now().kind, Now().text)));
  }

 private:
  static std::string Name(Kind kind, std::string_view text) {
    switch (kind) {
      case Kind::kPrintEnd:
        return "}}";
      case Kind::kBlockEnd:
        return "%}";
      case Kind::kInteger:
      case Kind::kFloat:
        return "a number";
      case Kind::kText:
        return "a text";
      case Kind::kName:
      case Kind::kSign:
        return text.empty() ? "a name"
                            : absl::StrCat("'", std::string(text), "'");
      default:
        return "the end of the block";
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace h2o::jinja

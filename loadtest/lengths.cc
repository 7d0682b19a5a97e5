// Reads and draws lengths of prompts and answers.
#include "loadtest/lengths.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace h2o {
namespace {

struct KindRow {
  const char* name;
  LengthLaw::Kind kind;
  size_t numbers;
};
constexpr KindRow kKinds[] = {
    {"fixed", LengthLaw::Kind::kFixed, 1},
    {"uniform", LengthLaw::Kind::kUniform, 2},
    {"normal", LengthLaw::Kind::kNormal, 2},
    {"lognormal", LengthLaw::Kind::kLogNormal, 2},
    {"exponential", LengthLaw::Kind::kExponential, 1}};

absl::Status WrongLaw(const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text,
      "' is no length; give a number of tokens, uniform:LEAST:MOST, "
      "normal:MEAN:DEVIATION, lognormal:MEDIAN:SIGMA or exponential:MEAN"));
}

// The shortest text that reads as the same number.
std::string TextOf(double number) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof(text), number).ptr};
}

}  // namespace

int LengthLaw::Draw(Draws* draws) const {
  const double drawn = [&] {
    switch (kind) {
      case Kind::kUniform:
        return a + static_cast<double>(
                       draws->Below(static_cast<int64_t>(b - a) + 1));
      case Kind::kNormal:
        return a + b * draws->Normal();
      case Kind::kLogNormal:
        return a * std::exp(b * draws->Normal());
      case Kind::kExponential:
        return a * draws->Exponential();
      case Kind::kFixed:
        break;
    }
    return a;
  }();
  return static_cast<int>(
      std::clamp<double>(std::round(drawn), 1, kLongestTokens));
}

std::string LengthLaw::ToString() const {
  if (kind == Kind::kFixed) return TextOf(a);
  for (const KindRow& row : kKinds) {
    if (row.kind != kind) continue;
    const std::string first = absl::StrCat(row.name, ":", TextOf(a));
    return row.numbers == 1 ? first : absl::StrCat(first, ":", TextOf(b));
  }
  return "";
}

absl::StatusOr<LengthLaw> ParseLengthLaw(const std::string& text) {
  std::vector<std::string> parts = absl::StrSplit(text, ':');
  LengthLaw law;
  double number = 0;
  if (absl::SimpleAtod(parts[0], &number)) {
    parts.insert(parts.begin(), "fixed");
  }
  for (const KindRow& row : kKinds) {
    if (parts[0] != row.name || parts.size() != row.numbers + 1) continue;
    law.kind = row.kind;
    if (!absl::SimpleAtod(parts[1], &law.a) || !(law.a >= 1) ||
        law.a > kLongestTokens) {
      return WrongLaw(text);
    }
    if (row.numbers == 1) return law;
    if (!absl::SimpleAtod(parts[2], &law.b) || !(law.b >= 0) ||
        law.b > kLongestTokens) {
      return WrongLaw(text);
    }
    if (law.kind == LengthLaw::Kind::kUniform && law.b < law.a) {
      return WrongLaw(text);
    }
    return law;
  }
  return WrongLaw(text);
}

absl::StatusOr<Lengths> ParseLengths(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  if (parts.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text,
                     "' must be PROMPT,OUTPUT, such as 512,128 or "
                     "uniform:64:256,normal:100:20"));
  }
  Lengths lengths;
  H2O_ASSIGN_OR_RETURN(lengths.prompt, ParseLengthLaw(parts[0]));
  H2O_ASSIGN_OR_RETURN(lengths.output, ParseLengthLaw(parts[1]));
  return lengths;
}

}  // namespace h2o

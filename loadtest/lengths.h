// How many tokens prompts and answers have.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "loadtest/draws.h"

namespace h2o {

// A distribution of lengths.  Drawn lengths are whole and at least 1.
// Longer prompts and answers are of no model and could not be held.
inline constexpr int kLongestTokens = 10'000'000;
inline bool IsLength(int tokens) {
  return tokens >= 1 && tokens <= kLongestTokens;
}

struct LengthLaw {
  enum class Kind : uint8_t {
    kFixed,        // a
    kUniform,      // a to b, both included
    kNormal,       // of mean a and standard deviation b
    kLogNormal,    // of median a; b is the standard deviation of the logarithm
    kExponential,  // of mean a
  };
  Kind kind = Kind::kFixed;
  double a = 1, b = 0;

  int Draw(Draws* draws) const;
  std::string ToString() const;  // as ParseLengthLaw reads it
  friend bool operator==(const LengthLaw&, const LengthLaw&) = default;
};

// "128", "uniform:64:256", "normal:512:100", "lognormal:512:0.8" or
// "exponential:200".
// Errors: INVALID_ARGUMENT naming `text` and what would be right.
absl::StatusOr<LengthLaw> ParseLengthLaw(const std::string& text);

struct Lengths {
  LengthLaw prompt, output;
  friend bool operator==(const Lengths&, const Lengths&) = default;
};

// "PROMPT,OUTPUT", each as above.
absl::StatusOr<Lengths> ParseLengths(const std::string& text);

}  // namespace h2o

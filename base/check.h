// H2O_CHECK is for bugs of this program: a broken invariant logs where and why,
// and ends the process.  Faults from outside (files, peers, requests) are
// absl::Status.
#pragma once

#include <sstream>
#include <string>

namespace h2o::internal {

// Logs `message` and aborts.
[[noreturn]] void AbortWith(const std::string& message);

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition) {
    message_ << file << ":" << line << ": check failed: " << condition << " ";
  }
  [[noreturn]] ~CheckFailure() { AbortWith(message_.str()); }
  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

}  // namespace h2o::internal

// Usage: H2O_CHECK(n > 0) << "n is " << n;
#define H2O_CHECK(condition) \
  if (condition)             \
    [[likely]];              \
  else                       \
    ::h2o::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

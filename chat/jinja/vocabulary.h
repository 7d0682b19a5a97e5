// The filters, tests, methods and functions that a template may name.  The
// parser refuses every other name.  What each does is Jinja's or Python's
// definition; `tojson` is that of Hugging Face's transformers.
#pragma once

#include <array>
#include <cstddef>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "chat/jinja/value.h"
#include "chat/jinja/work.h"

namespace h2o::jinja {

// What one rendering carries.
struct Run {
  explicit Run(const Limits& limits, const std::tm& now)
      : work(limits), now(now) {}
  // A namespace may hold itself.
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  Work work;
  const std::tm now;                  // the local time, for strftime_now
  std::optional<std::string> raised;  // by raise_exception
  std::vector<std::shared_ptr<Namespace>> namespaces;
};

// The arguments of a call, as it is written.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// The parameters that a call may fill, in order.
struct Signature {
  size_t required = 0;
  std::array<std::string_view, 5> names = {};
};

// One value a parameter, those that are not given undefined.
// Errors: INVALID_ARGUMENT for too few, too many or unknown ones.
absl::StatusOr<std::vector<Value>> Bind(std::string_view callee,
                                        const Signature& signature,
                                        Arguments arguments);

using Given = absl::Span<const Value>;

struct Filter {
  std::string_view name;
  Signature signature;
  absl::StatusOr<Value> (*apply)(Run& run, const Value& value, Given given);
};

struct Test {
  std::string_view name;
  Signature signature;
  absl::StatusOr<bool> (*holds)(Run& run, const Value& value, Given given);
};

struct Method {
  enum class Of { kText, kDict, kLoop };
  Of of;
  std::string_view name;
  Signature signature;
  absl::StatusOr<Value> (*call)(Run& run, const Value& self, Given given);
};

struct Function {
  std::string_view name;
  absl::StatusOr<Value> (*call)(Run& run, Arguments arguments);
};

// Null if there is none of the name.
const Filter* FindFilter(std::string_view name);
const Test* FindTest(std::string_view name);
const Function* FindFunction(std::string_view name);
// Of a value of the kind, or of any.
const Method* FindMethod(Method::Of of, std::string_view name);
bool IsMethod(std::string_view name);

// value.name and value[key], as Jinja looks them up: what is not there is
// undefined.  Errors: INVALID_ARGUMENT if the value is undefined.
absl::StatusOr<Value> GetAttribute(Run& run, const Value& value,
                                   std::string_view name);
absl::StatusOr<Value> GetItem(Run& run, const Value& value, const Value& key);

}  // namespace h2o::jinja

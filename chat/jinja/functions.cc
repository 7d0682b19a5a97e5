// Functions that a template may call.
#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/utf8.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {
namespace {

using Answer = absl::StatusOr<Value>;

// As Jinja's sandbox has it.
constexpr int64_t kMostOfRange = 100'000;

Answer Range(Run& run, Arguments arguments) {
  H2O_ASSIGN_OR_RETURN(
      const std::vector<Value> given,
      Bind("range()", {1, {"start", "stop", "step"}}, std::move(arguments)));
  int64_t bounds[3] = {0, 0, 1};
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i].IsUndefined()) continue;
    if (!given[i].AsInt(&bounds[i])) {
      return absl::InvalidArgumentError("range() takes integers");
    }
  }
  if (given[1].IsUndefined()) std::swap(bounds[0], bounds[1]);
  const auto [start, stop, step] = bounds;
  if (step == 0) return absl::InvalidArgumentError("the step of range() is 0");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    items.emplace_back(i);
    if (static_cast<int64_t>(items.size()) > kMostOfRange) {
      return absl::InvalidArgumentError(
          absl::StrCat("range() gives at most ", kMostOfRange, " numbers"));
    }
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return MakeList(run.work, std::move(items));
}

// The entries of an optional dictionary, then what is given by name.
absl::StatusOr<std::vector<std::pair<Value, Value>>> Entries(
    const char* callee, Arguments arguments) {
  std::vector<std::pair<Value, Value>> entries;
  for (const Value& value : arguments.positional) {
    const Dict* dict = value.AsDict();
    if (dict == nullptr || arguments.positional.size() > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(callee, " takes one dictionary, and names"));
    }
    entries = dict->entries;
  }
  for (auto& [name, value] : arguments.named) {
    entries.emplace_back(Value(name), std::move(value));
  }
  return entries;
}

Answer MakeNamespace(Run& run, Arguments arguments) {
  H2O_ASSIGN_OR_RETURN(const auto entries,
                       Entries("namespace()", std::move(arguments)));
  H2O_RETURN_IF_ERROR(
      run.work.Make(sizeof(Namespace) + 2 * sizeof(Value) * entries.size()));
  auto space = std::make_shared<Namespace>();
  for (const auto& [key, value] : entries) {
    const std::string* name = key.AsText();
    if (name != nullptr) space->attributes[*name] = value;
  }
  run.namespaces.push_back(space);
  return Value(std::move(space));
}

Answer MakeDictionary(Run& run, Arguments arguments) {
  H2O_ASSIGN_OR_RETURN(auto entries, Entries("dict()", std::move(arguments)));
  return MakeDict(run.work, std::move(entries));
}

Answer RaiseException(Run& run, Arguments arguments) {
  H2O_ASSIGN_OR_RETURN(
      const std::vector<Value> given,
      Bind("raise_exception()", {1, {"message"}}, std::move(arguments)));
  H2O_ASSIGN_OR_RETURN(run.raised, ToText(run.work, given[0]));
  return absl::InvalidArgumentError(*run.raised);
}

Answer StrftimeNow(Run& run, Arguments arguments) {
  H2O_ASSIGN_OR_RETURN(
      const std::vector<Value> given,
      Bind("strftime_now()", {1, {"format"}}, std::move(arguments)));
  const std::string* format = given[0].AsText();
  if (format == nullptr || format->size() > 256) {
    return absl::InvalidArgumentError(
        "strftime_now() takes a format of at most 256 bytes");
  }
  if (format->empty()) return Value("");
  char buffer[4096];
  const size_t length =
      std::strftime(buffer, sizeof(buffer), format->c_str(), &run.now);
  const std::string_view text(buffer, length);
  H2O_RETURN_IF_ERROR(CheckUtf8("what strftime_now() gives", text));
  return MakeText(run.work, std::string(text));
}

constexpr Function kFunctions[] = {
    {"dict", MakeDictionary},
    {"namespace", MakeNamespace},
    {"raise_exception", RaiseException},
    {"range", Range},
    {"strftime_now", StrftimeNow},
};

}  // namespace

const Function* FindFunction(std::string_view name) {
  const auto* it =
      std::find_if(std::begin(kFunctions), std::end(kFunctions),
                   [&](const Function& f) { return f.name == name; });
  return it == std::end(kFunctions) ? nullptr : it;
}

}  // namespace h2o::jinja

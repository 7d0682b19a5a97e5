// Attributes, items and arguments: how a template reaches into its values.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/loop.h"
#include "chat/jinja/operators.h"
#include "chat/jinja/python_text.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {
namespace {

Value UndefinedOf(std::string_view name) {
  return Undefined{std::make_shared<const std::string>(name)};
}

absl::Status CheckDefined(const Value& value) {
  const Undefined* undefined = std::get_if<Undefined>(&value.of());
  if (undefined == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "'", undefined->name == nullptr ? "a value" : *undefined->name,
      "' is undefined"));
}

const Method* MethodOf(const Value& value, std::string_view name) {
  if (value.AsText() != nullptr) return FindMethod(Method::Of::kText, name);
  if (value.AsDict() != nullptr) return FindMethod(Method::Of::kDict, name);
  if (value.AsLoop() != nullptr) return FindMethod(Method::Of::kLoop, name);
  return nullptr;
}

// What Python's getattr finds: methods, and what namespaces and loops hold.
absl::StatusOr<std::optional<Value>> PythonAttribute(const Value& value,
                                                     std::string_view name) {
  if (const Method* method = MethodOf(value, name)) {
    return Value(std::make_shared<const Bound>(Bound{value, method}));
  }
  if (Loop* loop = value.AsLoop()) return loop->Attribute(name);
  if (const Namespace* space = value.AsNamespace()) {
    const auto it = space->attributes.find(name);
    if (it != space->attributes.end()) return it->second;
  }
  return std::nullopt;
}

// Python's value[key]; none if there is no such item.
absl::StatusOr<std::optional<Value>> PythonItem(Run& run, const Value& value,
                                                const Value& key) {
  if (const Dict* dict = value.AsDict()) {
    for (const auto& [name, item] : dict->entries) {
      H2O_ASSIGN_OR_RETURN(const bool same, AreEqual(run.work, name, key));
      if (same) return item;
    }
    return std::nullopt;
  }
  const List* list = value.AsList();
  const bool has_items =
      value.AsText() != nullptr || (list != nullptr && list->IsSequence());
  int64_t index = 0;
  if (!has_items || !key.AsInt(&index)) return std::nullopt;
  H2O_ASSIGN_OR_RETURN(const int64_t size, LengthOf(run.work, value));
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  if (list != nullptr) return list->items[index];
  return Slice(run.work, value, index, index + 1, None{});
}

}  // namespace

Run::~Run() {
  for (const auto& space : namespaces) space->attributes.clear();
}

absl::StatusOr<Value> GetAttribute(Run& run, const Value& value,
                                   std::string_view name) {
  H2O_RETURN_IF_ERROR(CheckDefined(value));
  H2O_ASSIGN_OR_RETURN(const std::optional<Value> attribute,
                       PythonAttribute(value, name));
  if (attribute.has_value()) return *attribute;
  if (const Dict* dict = value.AsDict()) {
    H2O_RETURN_IF_ERROR(run.work.Step(1 + dict->entries.size() / 16));
    if (const Value* item = dict->Find(name)) return *item;
  }
  return UndefinedOf(name);
}

absl::StatusOr<Value> GetItem(Run& run, const Value& value, const Value& key) {
  H2O_RETURN_IF_ERROR(CheckDefined(value));
  H2O_ASSIGN_OR_RETURN(const std::optional<Value> item,
                       PythonItem(run, value, key));
  if (item.has_value()) return *item;
  const std::string* name = key.AsText();
  if (name == nullptr) return UndefinedOf("an item");
  H2O_ASSIGN_OR_RETURN(const std::optional<Value> attribute,
                       PythonAttribute(value, *name));
  return attribute.has_value() ? *attribute : UndefinedOf(*name);
}

absl::StatusOr<std::vector<Value>> Bind(std::string_view callee,
                                        const Signature& signature,
                                        Arguments arguments) {
  const auto& names = signature.names;
  const size_t most =
      std::find(names.begin(), names.end(), std::string_view()) - names.begin();
  const auto refuse = [&](const auto&... why) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(callee), " takes ", why...));
  };
  if (arguments.positional.size() > most) {
    return refuse("at most ", most, " arguments, not ",
                  arguments.positional.size());
  }
  std::vector<Value> bound(most);
  std::vector<bool> given(most);
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    bound[i] = std::move(arguments.positional[i]);
    given[i] = true;
  }
  for (auto& [name, value] : arguments.named) {
    const size_t at =
        std::find(names.begin(), names.begin() + most, name) - names.begin();
    if (at == most) return refuse("no argument ", name);
    if (given[at]) return refuse("one ", name);
    bound[at] = std::move(value);
    given[at] = true;
  }
  for (size_t i = 0; i < signature.required; ++i) {
    if (!given[i]) return refuse("an argument ", std::string(names[i]));
  }
  return bound;
}

}  // namespace h2o::jinja

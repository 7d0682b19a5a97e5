// Values: made from JSON, compared, printed and walked through as Python does.
#include "chat/jinja/value.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/python_text.h"

namespace h2o::jinja {
namespace {

using Entries = std::vector<std::pair<Value, Value>>;

int DepthOf(const Value& value) {
  if (const List* list = value.AsList()) return list->depth;
  if (const Dict* dict = value.AsDict()) return dict->depth;
  return 0;
}

absl::Status CheckDepth(int depth) {
  if (depth <= kMaxValueDepth) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "values are nested deeper than ", kMaxValueDepth, " levels"));
}

bool IsKey(const Value& value) {
  double number = 0;
  return value.AsText() != nullptr || value.IsNone() || value.AsNumber(&number);
}

absl::StatusOr<bool> AreEqualLists(Work& work, const List& a, const List& b) {
  if (a.kind != b.kind || a.items.size() != b.items.size()) {
    return false;
  }
  for (size_t i = 0; i < a.items.size(); ++i) {
    H2O_ASSIGN_OR_RETURN(const bool same,
                         AreEqual(work, a.items[i], b.items[i]));
    if (!same) return false;
  }
  return true;
}

absl::StatusOr<bool> AreEqualDicts(Work& work, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    bool found = false;
    for (const auto& [other_key, other] : b.entries) {
      H2O_ASSIGN_OR_RETURN(const bool same_key, AreEqual(work, key, other_key));
      if (!same_key) continue;
      H2O_ASSIGN_OR_RETURN(found, AreEqual(work, value, other));
      break;
    }
    if (!found) return false;
  }
  return true;
}

absl::Status PrintQuoted(Work& work, const Value& value, std::string* out) {
  const std::string* text = value.AsText();
  if (text == nullptr) return Print(work, value, out);
  H2O_RETURN_IF_ERROR(work.Make(text->size()));
  *out += Quote(*text);
  return absl::OkStatus();
}

absl::Status PrintList(Work& work, const List& list, std::string* out) {
  if (!list.IsSequence()) {
    return absl::InvalidArgumentError(
        "what goes over a value cannot be printed; make a list of it");
  }
  const bool is_tuple = list.kind == List::Kind::kTuple;
  *out += is_tuple ? "(" : "[";
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) *out += ", ";
    H2O_RETURN_IF_ERROR(PrintQuoted(work, list.items[i], out));
  }
  if (is_tuple && list.items.size() == 1) *out += ",";
  *out += is_tuple ? ")" : "]";
  return absl::OkStatus();
}

absl::Status PrintDict(Work& work, const Dict& dict, std::string* out) {
  *out += "{";
  const char* separator = "";
  for (const auto& [key, value] : dict.entries) {
    *out += separator;
    H2O_RETURN_IF_ERROR(PrintQuoted(work, key, out));
    *out += ": ";
    H2O_RETURN_IF_ERROR(PrintQuoted(work, value, out));
    separator = ", ";
  }
  *out += "}";
  return absl::OkStatus();
}

template <class Json>
absl::StatusOr<Value> FromJsonAt(Work& work, const Json& json, int level);

template <class Json>
absl::StatusOr<Value> ListFromJson(Work& work, const Json& json, int level) {
  std::vector<Value> items;
  items.reserve(json.size());
  for (const Json& item : json) {
    H2O_ASSIGN_OR_RETURN(Value value, FromJsonAt(work, item, level + 1));
    items.push_back(std::move(value));
  }
  return MakeList(work, std::move(items));
}

// The parser has kept one of equal keys.
template <class Json>
absl::StatusOr<Value> DictFromJson(Work& work, const Json& json, int level) {
  Dict dict;
  for (const auto& [key, item] : json.items()) {
    H2O_RETURN_IF_ERROR(work.Make(key.size() + sizeof(dict.entries[0])));
    H2O_ASSIGN_OR_RETURN(Value value, FromJsonAt(work, item, level + 1));
    dict.depth = std::max(dict.depth, DepthOf(value) + 1);
    dict.entries.emplace_back(Value(key), std::move(value));
  }
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

template <class Json>
absl::StatusOr<Value> FromJsonAt(Work& work, const Json& json, int level) {
  H2O_RETURN_IF_ERROR(CheckDepth(level));
  H2O_RETURN_IF_ERROR(work.Make(sizeof(Value)));
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value(json.template get<bool>());
    case Json::value_t::number_integer:
      return Value(json.template get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.template get<uint64_t>() > INT64_MAX) {
        return Value(json.template get<double>());
      }
      return Value(json.template get<int64_t>());
    case Json::value_t::number_float:
      return Value(json.template get<double>());
    case Json::value_t::string:
      return MakeText(work, json.template get<std::string>());
    case Json::value_t::array:
      return ListFromJson(work, json, level);
    case Json::value_t::object:
      return DictFromJson(work, json, level);
    default:
      return Value(None{});
  }
}

}  // namespace

bool Value::IsCallable() const {
  return std::holds_alternative<std::shared_ptr<const Bound>>(of_) ||
         std::holds_alternative<const Function*>(of_) ||
         std::holds_alternative<const MacroStatement*>(of_);
}

bool Value::AsInt(int64_t* number) const {
  if (const bool* flag = AsBool()) {
    *number = *flag ? 1 : 0;
    return true;
  }
  const int64_t* integer = std::get_if<int64_t>(&of_);
  if (integer == nullptr) return false;
  *number = *integer;
  return true;
}

bool Value::AsNumber(double* number) const {
  if (const double* real = AsDouble()) {
    *number = *real;
    return true;
  }
  int64_t integer = 0;
  if (!AsInt(&integer)) return false;
  *number = static_cast<double>(integer);
  return true;
}

const Value* Dict::Find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    const std::string* text = name.AsText();
    if (text != nullptr && *text == key) return &value;
  }
  return nullptr;
}

absl::StatusOr<Value> MakeText(Work& work, std::string text) {
  H2O_RETURN_IF_ERROR(work.Make(text.size()));
  return Value(std::move(text));
}

absl::StatusOr<Value> MakeList(Work& work, std::vector<Value> items,
                               List::Kind kind) {
  H2O_RETURN_IF_ERROR(work.Make(items.size() * sizeof(Value)));
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, DepthOf(item));
  H2O_RETURN_IF_ERROR(CheckDepth(depth + 1));
  return Value(
      std::make_shared<const List>(List{std::move(items), kind, depth + 1}));
}

absl::StatusOr<Value> MakeDict(Work& work, Entries entries) {
  H2O_RETURN_IF_ERROR(work.Make(entries.size() * sizeof(entries[0])));
  Dict dict;
  for (auto& [key, value] : entries) {
    if (!IsKey(key)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a ", KindOf(key), " cannot be a key"));
    }
    dict.depth = std::max(dict.depth, DepthOf(value) + 1);
    Value* place = nullptr;
    for (auto& [other, other_value] : dict.entries) {
      H2O_ASSIGN_OR_RETURN(const bool same, AreEqual(work, key, other));
      if (same) place = &other_value;
    }
    if (place != nullptr) {
      *place = std::move(value);
    } else {
      dict.entries.emplace_back(std::move(key), std::move(value));
    }
  }
  H2O_RETURN_IF_ERROR(CheckDepth(dict.depth));
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

template <class Json>
absl::StatusOr<Value> FromJson(Work& work, const Json& json) {
  return FromJsonAt(work, json, 1);
}

template absl::StatusOr<Value> FromJson(Work&, const nlohmann::json&);
template absl::StatusOr<Value> FromJson(Work&, const nlohmann::ordered_json&);

bool IsTrue(const Value& value) {
  if (value.IsUndefined() || value.IsNone()) return false;
  double number = 0;
  if (value.AsNumber(&number)) return number != 0;
  if (const std::string* text = value.AsText()) return !text->empty();
  if (const List* list = value.AsList()) {
    return list->kind == List::Kind::kIterator || !list->items.empty();
  }
  if (const Dict* dict = value.AsDict()) return !dict->entries.empty();
  return true;
}

const char* KindOf(const Value& value) {
  if (value.IsUndefined()) return "undefined value";
  if (value.IsNone()) return "NoneType";
  if (value.AsBool() != nullptr) return "bool";
  if (value.AsDouble() != nullptr) return "float";
  if (value.AsText() != nullptr) return "str";
  if (const List* list = value.AsList()) {
    constexpr const char* kNames[] = {"list", "tuple", "view", "iterator"};
    return kNames[static_cast<size_t>(list->kind)];
  }
  if (value.AsDict() != nullptr) return "dict";
  if (value.AsNamespace() != nullptr) return "namespace";
  if (value.AsLoop() != nullptr) return "loop";
  return value.IsCallable() ? "function" : "int";
}

absl::StatusOr<bool> AreEqual(Work& work, const Value& value,
                              const Value& other) {
  H2O_RETURN_IF_ERROR(work.Step());
  if (const std::string* text = value.AsText()) {
    const std::string* other_text = other.AsText();
    if (other_text == nullptr || text->size() != other_text->size()) {
      return false;
    }
    H2O_RETURN_IF_ERROR(work.Scan(text->size(), 1));
    return *text == *other_text;
  }
  int64_t whole = 0, other_whole = 0;
  if (value.AsInt(&whole) && other.AsInt(&other_whole)) {
    return whole == other_whole;
  }
  double number = 0, other_number = 0;
  if (value.AsNumber(&number)) {
    return other.AsNumber(&other_number) && number == other_number;
  }
  if (value.AsList() != nullptr && other.AsList() != nullptr) {
    return AreEqualLists(work, *value.AsList(), *other.AsList());
  }
  if (value.AsDict() != nullptr && other.AsDict() != nullptr) {
    return AreEqualDicts(work, *value.AsDict(), *other.AsDict());
  }
  if (value.IsUndefined() || value.IsNone()) {
    return value.of().index() == other.of().index();
  }
  return value.AsNamespace() != nullptr &&
         value.AsNamespace() == other.AsNamespace();
}

absl::Status Print(Work& work, const Value& value, std::string* out) {
  H2O_RETURN_IF_ERROR(work.Step());
  int64_t whole = 0;
  if (const std::string* text = value.AsText()) {
    H2O_RETURN_IF_ERROR(work.Make(text->size()));
    *out += *text;
  } else if (value.IsNone()) {
    *out += "None";
  } else if (const bool* flag = value.AsBool()) {
    *out += *flag ? "True" : "False";
  } else if (value.AsInt(&whole)) {
    absl::StrAppend(out, whole);
  } else if (const double* number = value.AsDouble()) {
    *out += FormatDouble(*number);
  } else if (const List* list = value.AsList()) {
    return PrintList(work, *list, out);
  } else if (const Dict* dict = value.AsDict()) {
    return PrintDict(work, *dict, out);
  } else if (!value.IsUndefined()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", KindOf(value), " cannot be printed"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ToText(Work& work, const Value& value) {
  std::string text;
  H2O_RETURN_IF_ERROR(Print(work, value, &text));
  return text;
}

absl::StatusOr<std::vector<Value>> ItemsOf(Work& work, const Value& value) {
  std::vector<Value> items;
  if (const List* list = value.AsList()) {
    H2O_RETURN_IF_ERROR(work.Make(list->items.size() * sizeof(Value)));
    return list->items;
  }
  if (const Dict* dict = value.AsDict()) {
    H2O_RETURN_IF_ERROR(work.Make(dict->entries.size() * sizeof(Value)));
    for (const auto& [key, item] : dict->entries) items.push_back(key);
    return items;
  }
  if (const std::string* text = value.AsText()) {
    H2O_RETURN_IF_ERROR(work.Make(CountCharacters(*text) * 2 * sizeof(Value)));
    for (std::string_view c : CharactersOf(*text)) items.emplace_back(c);
    return items;
  }
  if (value.IsUndefined()) return items;
  return absl::InvalidArgumentError(
      absl::StrCat("a ", KindOf(value), " has no items to go over"));
}

absl::StatusOr<int64_t> LengthOf(Work& work, const Value& value) {
  if (const std::string* text = value.AsText()) {
    H2O_RETURN_IF_ERROR(work.Scan(text->size(), 1));
    return CountCharacters(*text);
  }
  const List* list = value.AsList();
  if (list != nullptr && list->kind != List::Kind::kIterator) {
    return list->items.size();
  }
  if (const Dict* dict = value.AsDict()) return dict->entries.size();
  if (value.IsUndefined()) return 0;
  return absl::InvalidArgumentError(
      absl::StrCat("a ", KindOf(value), " has no length"));
}

}  // namespace h2o::jinja

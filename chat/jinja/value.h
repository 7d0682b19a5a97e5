// The values that a template computes with: Python's, as far as chat templates
// need them.  Texts are UTF-8 and count in characters.  Lists and dictionaries
// never change once they are made; a namespace does.
//
// Threads  values are shared within one rendering, never between two.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "chat/jinja/work.h"

namespace h2o::jinja {

class Loop;
class Value;
struct Bound;
struct Dict;
struct Function;
struct List;
struct MacroStatement;
struct Namespace;

using Text = std::shared_ptr<const std::string>;

// What has no value, and the name that it was asked by.
struct Undefined {
  Text name;
};
struct None {};

using Variant =
    std::variant<Undefined, None, bool, int64_t, double, Text,
                 std::shared_ptr<const List>, std::shared_ptr<const Dict>,
                 std::shared_ptr<Namespace>, std::shared_ptr<Loop>,
                 std::shared_ptr<const Bound>, const Function*,
                 const MacroStatement*>;

class Value {
 public:
  Value() : of_(Undefined{}) {}
  Value(Undefined undefined) : of_(std::move(undefined)) {}
  Value(None none) : of_(none) {}
  Value(bool flag) : of_(flag) {}
  Value(int64_t number) : of_(number) {}
  Value(double number) : of_(number) {}
  Value(std::string text)
      : of_(std::make_shared<const std::string>(std::move(text))) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(Text text) : of_(std::move(text)) {}
  Value(std::shared_ptr<const List> list) : of_(std::move(list)) {}
  Value(std::shared_ptr<const Dict> dict) : of_(std::move(dict)) {}
  Value(std::shared_ptr<Namespace> space) : of_(std::move(space)) {}
  Value(std::shared_ptr<Loop> loop) : of_(std::move(loop)) {}
  Value(std::shared_ptr<const Bound> bound) : of_(std::move(bound)) {}
  Value(const Function* function) : of_(function) {}
  Value(const MacroStatement* macro) : of_(macro) {}

  bool IsUndefined() const { return std::holds_alternative<Undefined>(of_); }
  bool IsNone() const { return std::holds_alternative<None>(of_); }
  bool IsCallable() const;

  // Null if the value is of another kind.
  const bool* AsBool() const { return std::get_if<bool>(&of_); }
  const double* AsDouble() const { return std::get_if<double>(&of_); }
  const std::string* AsText() const { return Pointee<Text>(); }
  const List* AsList() const { return Pointee<std::shared_ptr<const List>>(); }
  const Dict* AsDict() const { return Pointee<std::shared_ptr<const Dict>>(); }
  Namespace* AsNamespace() const {
    return Pointee<std::shared_ptr<Namespace>>();
  }
  Loop* AsLoop() const { return Pointee<std::shared_ptr<Loop>>(); }

  // A number without a fraction; true is 1, as in Python.
  bool AsInt(int64_t* number) const;
  // Any number.
  bool AsNumber(double* number) const;

  const Variant& of() const { return of_; }

 private:
  template <class Pointer>
  typename Pointer::element_type* Pointee() const {
    const Pointer* pointer = std::get_if<Pointer>(&of_);
    return pointer == nullptr ? nullptr : pointer->get();
  }

  Variant of_;
};

// Several values in order.
struct List {
  enum class Kind {
    kList,
    kTuple,
    kView,      // of a dictionary: cannot be indexed
    kIterator,  // of a filter: has no length either, and is always true
  };
  bool IsSequence() const {
    return kind == Kind::kList || kind == Kind::kTuple;
  }

  std::vector<Value> items;
  Kind kind = Kind::kList;
  int depth =
      1;  // of lists and dictionaries within each other, itself included
};

// Keys are texts, numbers, booleans or none, in the order of their insertion.
struct Dict {
  // Null if there is no such key.
  const Value* Find(std::string_view key) const;

  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;
};

// namespace(..): what a template may change.
struct Namespace {
  std::map<std::string, Value, std::less<>> attributes;
};

struct Method;

// A method of a value, such as the `strip` of a text.
struct Bound {
  Value self;
  const Method* method;
};

// These charge what they make.  Errors: INVALID_ARGUMENT for nesting over
// kMaxValueDepth, and as Work's.
inline constexpr int kMaxValueDepth = 64;
absl::StatusOr<Value> MakeText(Work& work, std::string text);
absl::StatusOr<Value> MakeList(Work& work, std::vector<Value> items,
                               List::Kind kind = List::Kind::kList);
// Of equal keys the last value counts, at the place of the first.
// Errors: also INVALID_ARGUMENT for a key of another kind.
absl::StatusOr<Value> MakeDict(Work& work,
                               std::vector<std::pair<Value, Value>> entries);

// `Json` is nlohmann::json or nlohmann::ordered_json.
template <class Json>
absl::StatusOr<Value> FromJson(Work& work, const Json& json);

// Python's bool(value).
bool IsTrue(const Value& value);

// Python's name of the value's kind, for messages: "str".
const char* KindOf(const Value& value);

// Python's value == other.
absl::StatusOr<bool> AreEqual(Work& work, const Value& value,
                              const Value& other);

// Appends Python's str(value), which {{ value }} prints.
// Errors: INVALID_ARGUMENT for a value that has no text, such as a function.
absl::Status Print(Work& work, const Value& value, std::string* out);
absl::StatusOr<std::string> ToText(Work& work, const Value& value);

// What a `for` goes over: the items of a list, the keys of a dictionary, the
// characters of a text, nothing of an undefined value.
// Errors: INVALID_ARGUMENT for a value of another kind.
absl::StatusOr<std::vector<Value>> ItemsOf(Work& work, const Value& value);

// Python's len(value); an undefined value has none.
// Errors: INVALID_ARGUMENT for a value without length.
absl::StatusOr<int64_t> LengthOf(Work& work, const Value& value);

}  // namespace h2o::jinja

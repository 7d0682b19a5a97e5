// Arithmetic, comparison and slices as Python has them.
#include "chat/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/python_text.h"

namespace h2o::jinja {
namespace {

const char* SignOf(Operator op) {
  switch (op) {
    case Operator::kAdd:
      return "+";
    case Operator::kSubtract:
      return "-";
    case Operator::kMultiply:
      return "*";
    case Operator::kDivide:
      return "/";
    case Operator::kFloorDivide:
      return "//";
    case Operator::kModulo:
      return "%";
    default:
      return "**";
  }
}

absl::Status Mismatch(const char* sign, const Value& a, const Value& b) {
  const Undefined* undefined = std::get_if<Undefined>(&a.of());
  if (undefined == nullptr) undefined = std::get_if<Undefined>(&b.of());
  if (undefined != nullptr && undefined->name != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", *undefined->name, "' is undefined"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no ", sign, " of ", KindOf(a), " and ", KindOf(b)));
}

absl::Status TooLarge() {
  return absl::InvalidArgumentError("an integer has more than 64 bits");
}

absl::Status DivisionByZero() {
  return absl::InvalidArgumentError("division by zero");
}

// Python rounds quotients down.
int64_t FloorDivide(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

absl::StatusOr<Value> PowerOfInts(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return DivisionByZero();
    return Value(std::pow(static_cast<double>(base), exponent));
  }
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) {
      return TooLarge();
    }
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) {
      return TooLarge();
    }
  }
  return Value(result);
}

absl::StatusOr<Value> ComputeInts(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kPower:
      return PowerOfInts(a, b);
    default:
      if (b == 0) return DivisionByZero();
      if (op == Operator::kDivide) {
        return Value(static_cast<double>(a) / static_cast<double>(b));
      }
      // The one quotient that does not fit.
      if (a == INT64_MIN && b == -1) {
        if (op == Operator::kModulo) return Value(int64_t{0});
        return TooLarge();
      }
      result = FloorDivide(a, b);
      if (op == Operator::kModulo) result = a - result * b;
  }
  if (overflow) return TooLarge();
  return Value(result);
}

absl::StatusOr<Value> ComputeDoubles(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return Value(a + b);
    case Operator::kSubtract:
      return Value(a - b);
    case Operator::kMultiply:
      return Value(a * b);
    case Operator::kPower:
      return Value(std::pow(a, b));
    default:
      break;
  }
  if (b == 0) return DivisionByZero();
  if (op == Operator::kDivide) return Value(a / b);
  double modulo = std::fmod(a, b);
  if (modulo != 0 && (modulo < 0) != (b < 0)) modulo += b;
  if (op == Operator::kModulo) return Value(modulo);
  return Value(std::floor((a - modulo) / b + 0.5));
}

absl::StatusOr<Value> AddLists(Work& work, const List& a, const List& b) {
  H2O_RETURN_IF_ERROR(
      work.Make((a.items.size() + b.items.size()) * sizeof(Value)));
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return MakeList(work, std::move(items), a.kind);
}

// What is made is charged before it is made.
absl::StatusOr<Value> Repeat(Work& work, const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  const std::string* text = value.AsText();
  const int64_t unit = text != nullptr
                           ? text->size()
                           : value.AsList()->items.size() * sizeof(Value);
  int64_t bytes = 0;
  if (__builtin_mul_overflow(unit, times, &bytes)) bytes = INT64_MAX / 2;
  H2O_RETURN_IF_ERROR(work.Make(bytes));
  if (unit == 0) times = 0;
  if (text != nullptr) {
    std::string repeated;
    repeated.reserve(bytes);
    for (int64_t i = 0; i < times; ++i) repeated += *text;
    return Value(std::move(repeated));
  }
  const List& list = *value.AsList();
  std::vector<Value> items;
  items.reserve(list.items.size() * times);
  for (int64_t i = 0; i < times; ++i) {
    items.insert(items.end(), list.items.begin(), list.items.end());
  }
  return MakeList(work, std::move(items), list.kind);
}

bool IsSequence(const Value& value) {
  return value.AsText() != nullptr ||
         (value.AsList() != nullptr && value.AsList()->IsSequence());
}

// -1, 0 or 1; lists by their first difference.
absl::StatusOr<int> Order(Work& work, const char* sign, const Value& a,
                          const Value& b) {
  H2O_RETURN_IF_ERROR(work.Step());
  int64_t whole_a = 0, whole_b = 0;
  if (a.AsInt(&whole_a) && b.AsInt(&whole_b)) {
    return whole_a < whole_b ? -1 : whole_a > whole_b ? 1 : 0;
  }
  double number_a = 0, number_b = 0;
  if (a.AsNumber(&number_a) && b.AsNumber(&number_b)) {
    return number_a < number_b ? -1 : number_a > number_b ? 1 : 0;
  }
  if (a.AsText() != nullptr && b.AsText() != nullptr) {
    H2O_RETURN_IF_ERROR(work.Scan(a.AsText()->size(), 1));
    const int order = a.AsText()->compare(*b.AsText());  // UTF-8 keeps order
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  const List* list_a = a.AsList();
  const List* list_b = b.AsList();
  if (list_a == nullptr || list_b == nullptr || list_a->kind != list_b->kind) {
    return Mismatch(sign, a, b);
  }
  const size_t shared = std::min(list_a->items.size(), list_b->items.size());
  for (size_t i = 0; i < shared; ++i) {
    H2O_ASSIGN_OR_RETURN(const bool same,
                         AreEqual(work, list_a->items[i], list_b->items[i]));
    if (!same) return Order(work, sign, list_a->items[i], list_b->items[i]);
  }
  return static_cast<int>(list_a->items.size() > shared) -
         static_cast<int>(list_b->items.size() > shared);
}

// Python's slice.indices: where to begin, how many items, and the step.
struct Range {
  int64_t begin, count, step;
};

absl::StatusOr<Range> RangeOf(const Value& begin, const Value& end,
                              const Value& step, int64_t size) {
  const auto given = [](const Value& value) {
    return !value.IsNone() && !value.IsUndefined();
  };
  int64_t first = 0, last = 0, by = 1;
  if ((given(begin) && !begin.AsInt(&first)) ||
      (given(end) && !end.AsInt(&last)) || (given(step) && !step.AsInt(&by))) {
    return absl::InvalidArgumentError("the bounds of a slice must be integers");
  }
  if (by == 0) return absl::InvalidArgumentError("the step of a slice is 0");
  by = std::clamp(by, -(size + 1), size + 1);  // further is the same
  const int64_t lowest = by > 0 ? 0 : -1, highest = by > 0 ? size : size - 1;
  const auto bounded = [&](int64_t at) {
    if (at < 0) at = at < -size ? lowest : at + size;
    return std::clamp(at, lowest, highest);
  };
  first = given(begin) ? bounded(first) : by > 0 ? 0 : size - 1;
  last = given(end) ? bounded(last) : by > 0 ? size : -1;
  const int64_t span = by > 0 ? last - first : first - last;
  const int64_t width = std::abs(by);
  return Range{first, span <= 0 ? 0 : (span + width - 1) / width, by};
}

// `count` characters of `text` from the character `begin` on.
absl::StatusOr<Value> PartOf(Work& work, std::string_view text, int64_t begin,
                             int64_t count) {
  const size_t first = OffsetOf(text, begin);
  const std::string_view rest = text.substr(first);
  return MakeText(work, std::string(rest.substr(0, OffsetOf(rest, count))));
}

}  // namespace

absl::StatusOr<Value> Compute(Work& work, Operator op, const Value& a,
                              const Value& b) {
  int64_t whole_a = 0, whole_b = 0;
  if (a.AsInt(&whole_a) && b.AsInt(&whole_b)) {
    return ComputeInts(op, whole_a, whole_b);
  }
  double number_a = 0, number_b = 0;
  if (a.AsNumber(&number_a) && b.AsNumber(&number_b)) {
    return ComputeDoubles(op, number_a, number_b);
  }
  if (op == Operator::kAdd) {
    if (a.AsText() != nullptr && b.AsText() != nullptr) {
      H2O_RETURN_IF_ERROR(work.Make(a.AsText()->size() + b.AsText()->size()));
      return Value(absl::StrCat(*a.AsText(), *b.AsText()));
    }
    const List* list_a = a.AsList();
    const List* list_b = b.AsList();
    if (list_a != nullptr && list_b != nullptr && list_a->IsSequence() &&
        list_a->kind == list_b->kind) {
      return AddLists(work, *list_a, *list_b);
    }
  }
  if (op == Operator::kMultiply) {
    if (IsSequence(a) && b.AsInt(&whole_b)) return Repeat(work, a, whole_b);
    if (IsSequence(b) && a.AsInt(&whole_a)) return Repeat(work, b, whole_a);
  }
  return Mismatch(SignOf(op), a, b);
}

absl::StatusOr<Value> Negate(const Value& value) {
  int64_t whole = 0;
  double number = 0;
  if (value.AsInt(&whole)) {
    if (whole == INT64_MIN) return TooLarge();
    return Value(-whole);
  }
  if (value.AsNumber(&number)) return Value(-number);
  return absl::InvalidArgumentError(
      absl::StrCat("a ", KindOf(value), " has no negative"));
}

absl::StatusOr<bool> Compare(Work& work, Comparison comparison, const Value& a,
                             const Value& b) {
  switch (comparison) {
    case Comparison::kEqual:
      return AreEqual(work, a, b);
    case Comparison::kNotEqual: {
      H2O_ASSIGN_OR_RETURN(const bool same, AreEqual(work, a, b));
      return !same;
    }
    case Comparison::kIn:
      return Contains(work, b, a);
    case Comparison::kNotIn: {
      H2O_ASSIGN_OR_RETURN(const bool is_in, Contains(work, b, a));
      return !is_in;
    }
    case Comparison::kLess: {
      H2O_ASSIGN_OR_RETURN(const int order, Order(work, "<", a, b));
      return order < 0;
    }
    case Comparison::kLessOrEqual: {
      H2O_ASSIGN_OR_RETURN(const int order, Order(work, "<=", a, b));
      return order <= 0;
    }
    case Comparison::kGreater: {
      H2O_ASSIGN_OR_RETURN(const int order, Order(work, ">", a, b));
      return order > 0;
    }
    default: {
      H2O_ASSIGN_OR_RETURN(const int order, Order(work, ">=", a, b));
      return order >= 0;
    }
  }
}

absl::StatusOr<bool> Contains(Work& work, const Value& container,
                              const Value& item) {
  if (const std::string* text = container.AsText()) {
    const std::string* part = item.AsText();
    if (part == nullptr) return Mismatch("in", item, container);
    H2O_RETURN_IF_ERROR(work.Scan(text->size(), part->size()));
    return text->find(*part) != std::string::npos;
  }
  if (const Dict* dict = container.AsDict()) {
    for (const auto& [key, value] : dict->entries) {
      H2O_ASSIGN_OR_RETURN(const bool same, AreEqual(work, key, item));
      if (same) return true;
    }
    return false;
  }
  H2O_ASSIGN_OR_RETURN(const std::vector<Value> items,
                       ItemsOf(work, container));
  for (const Value& other : items) {
    H2O_ASSIGN_OR_RETURN(const bool same, AreEqual(work, other, item));
    if (same) return true;
  }
  return false;
}

absl::StatusOr<Value> Slice(Work& work, const Value& value, const Value& begin,
                            const Value& end, const Value& step) {
  if (!IsSequence(value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", KindOf(value), " has no slices"));
  }
  H2O_ASSIGN_OR_RETURN(const int64_t size, LengthOf(work, value));
  H2O_ASSIGN_OR_RETURN(const Range range, RangeOf(begin, end, step, size));
  if (const List* list = value.AsList()) {
    std::vector<Value> items;
    for (int64_t i = 0; i < range.count; ++i) {
      items.push_back(list->items[range.begin + i * range.step]);
    }
    return MakeList(work, std::move(items), list->kind);
  }
  const std::string& text = *value.AsText();
  if (range.step == 1) return PartOf(work, text, range.begin, range.count);
  H2O_RETURN_IF_ERROR(work.Make(text.size() * sizeof(std::string_view)));
  const std::vector<std::string_view> characters = CharactersOf(text);
  std::string slice;
  for (int64_t i = 0; i < range.count; ++i) {
    slice += characters[range.begin + i * range.step];
  }
  return Value(std::move(slice));
}

absl::StatusOr<Value> ReplaceParts(Work& work, std::string_view text,
                                   std::string_view from, std::string_view to,
                                   int64_t most) {
  H2O_RETURN_IF_ERROR(work.Scan(2 * text.size(), from.size()));
  int64_t times = CountCharacters(text) + 1;
  if (!from.empty()) {
    times = 0;
    for (size_t at = 0; (at = text.find(from, at)) != std::string_view::npos;) {
      at += from.size();
      ++times;
    }
  }
  if (most >= 0) times = std::min(times, most);
  int64_t bytes = 0;  // at most
  if (__builtin_mul_overflow(times, static_cast<int64_t>(to.size()), &bytes)) {
    return TooLarge();
  }
  H2O_RETURN_IF_ERROR(work.Make(text.size() + bytes));
  return Value(Replace(text, from, to, most));
}

}  // namespace h2o::jinja

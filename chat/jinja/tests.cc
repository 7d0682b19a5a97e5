// What may stand behind `is`.
#include <algorithm>
#include <iterator>

#include "base/status_macros.h"
#include "chat/jinja/operators.h"
#include "chat/jinja/python_text.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {
namespace {

using Answer = absl::StatusOr<bool>;

Answer IsDefined(Run&, const Value& value, Given) {
  return !value.IsUndefined();
}

Answer IsUndefined(Run&, const Value& value, Given) {
  return value.IsUndefined();
}

Answer IsNone(Run&, const Value& value, Given) { return value.IsNone(); }

Answer IsString(Run&, const Value& value, Given) {
  return value.AsText() != nullptr;
}

Answer IsMapping(Run&, const Value& value, Given) {
  return value.AsDict() != nullptr;
}

Answer IsSequence(Run&, const Value& value, Given) {
  const List* list = value.AsList();
  return value.IsUndefined() || value.AsText() != nullptr ||
         value.AsDict() != nullptr || (list != nullptr && list->IsSequence());
}

Answer IsIterable(Run&, const Value& value, Given) {
  return value.IsUndefined() || value.AsText() != nullptr ||
         value.AsDict() != nullptr || value.AsList() != nullptr ||
         value.AsLoop() != nullptr;
}

Answer IsCallable(Run&, const Value& value, Given) {
  return value.IsCallable();
}

Answer IsBoolean(Run&, const Value& value, Given) {
  return value.AsBool() != nullptr;
}

Answer IsTrueValue(Run&, const Value& value, Given) {
  return value.AsBool() != nullptr && *value.AsBool();
}

Answer IsFalseValue(Run&, const Value& value, Given) {
  return value.AsBool() != nullptr && !*value.AsBool();
}

Answer IsNumber(Run&, const Value& value, Given) {
  double number = 0;
  return value.AsNumber(&number);
}

Answer IsInteger(Run&, const Value& value, Given) {
  int64_t number = 0;
  return value.AsBool() == nullptr && value.AsInt(&number);
}

Answer IsFloat(Run&, const Value& value, Given) {
  return value.AsDouble() != nullptr;
}

// value % divisor == remainder
Answer HasRemainder(Run& run, const Value& value, const Value& divisor,
                    int64_t remainder) {
  H2O_ASSIGN_OR_RETURN(const Value rest,
                       Compute(run.work, Operator::kModulo, value, divisor));
  return AreEqual(run.work, rest, remainder);
}

Answer IsOdd(Run& run, const Value& value, Given) {
  return HasRemainder(run, value, int64_t{2}, 1);
}

Answer IsEven(Run& run, const Value& value, Given) {
  return HasRemainder(run, value, int64_t{2}, 0);
}

Answer IsDivisible(Run& run, const Value& value, Given given) {
  return HasRemainder(run, value, given[0], 0);
}

template <Comparison kComparison>
Answer Compares(Run& run, const Value& value, Given given) {
  return Compare(run.work, kComparison, value, given[0]);
}

// Python's `is`: true is not 1.
Answer IsSame(Run& run, const Value& value, Given given) {
  if (value.of().index() != given[0].of().index()) return false;
  return AreEqual(run.work, value, given[0]);
}

Answer IsLower(Run& run, const Value& value, Given) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ToText(run.work, value));
  return Lower(text) == text && Upper(text) != text;
}

Answer IsUpper(Run& run, const Value& value, Given) {
  H2O_ASSIGN_OR_RETURN(const std::string text, ToText(run.work, value));
  return Upper(text) == text && Lower(text) != text;
}

constexpr Signature kOther = {1, {"other"}};

constexpr Test kTests[] = {
    {"!=", kOther, Compares<Comparison::kNotEqual>},
    {"<", kOther, Compares<Comparison::kLess>},
    {"<=", kOther, Compares<Comparison::kLessOrEqual>},
    {"==", kOther, Compares<Comparison::kEqual>},
    {">", kOther, Compares<Comparison::kGreater>},
    {">=", kOther, Compares<Comparison::kGreaterOrEqual>},
    {"boolean", {}, IsBoolean},
    {"callable", {}, IsCallable},
    {"defined", {}, IsDefined},
    {"divisibleby", {1, {"num"}}, IsDivisible},
    {"eq", kOther, Compares<Comparison::kEqual>},
    {"equalto", kOther, Compares<Comparison::kEqual>},
    {"even", {}, IsEven},
    {"false", {}, IsFalseValue},
    {"float", {}, IsFloat},
    {"ge", kOther, Compares<Comparison::kGreaterOrEqual>},
    {"greaterthan", kOther, Compares<Comparison::kGreater>},
    {"gt", kOther, Compares<Comparison::kGreater>},
    {"in", {1, {"seq"}}, Compares<Comparison::kIn>},
    {"integer", {}, IsInteger},
    {"iterable", {}, IsIterable},
    {"le", kOther, Compares<Comparison::kLessOrEqual>},
    {"lessthan", kOther, Compares<Comparison::kLess>},
    {"lower", {}, IsLower},
    {"lt", kOther, Compares<Comparison::kLess>},
    {"mapping", {}, IsMapping},
    {"ne", kOther, Compares<Comparison::kNotEqual>},
    {"none", {}, IsNone},
    {"number", {}, IsNumber},
    {"odd", {}, IsOdd},
    {"sameas", kOther, IsSame},
    {"sequence", {}, IsSequence},
    {"string", {}, IsString},
    {"true", {}, IsTrueValue},
    {"undefined", {}, IsUndefined},
    {"upper", {}, IsUpper},
};

}  // namespace

const Test* FindTest(std::string_view name) {
  const auto* it = std::find_if(std::begin(kTests), std::end(kTests),
                                [&](const Test& t) { return t.name == name; });
  return it == std::end(kTests) ? nullptr : it;
}

}  // namespace h2o::jinja

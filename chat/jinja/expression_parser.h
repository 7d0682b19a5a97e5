// Parses the expressions of a template, by Jinja's grammar.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "chat/jinja/token_stream.h"
#include "chat/jinja/tree.h"

namespace h2o::jinja {

class ExpressionParser {
 public:
  using Result = absl::StatusOr<ExpressionPtr>;

  // `tokens` outlives this.
  explicit ExpressionParser(TokenStream* tokens) : in_(*tokens) {}

  // Errors of all: INVALID_ARGUMENT with the line.

  // `a`, or `a, b`.
  Result ParseTuple();
  // The same without `if` and `else` at its top.
  Result ParsePlainTuple();
  // With `if` and `else`.
  Result ParseExpression();
  // A filter behind its bar, of nothing yet.
  absl::StatusOr<Filtered> ParseFilter();
  // "a.b.c": the name of a filter, a test or a statement.
  absl::StatusOr<std::string> ParseName();

  // Names that are called as functions, and on which lines.
  const std::vector<std::pair<std::string, int>>& called() const {
    return called_;
  }
  // Something asks what kind of value a content is.
  bool tests_kind() const { return tests_kind_; }

 private:
  Result ParseItems(Result (ExpressionParser::*parse)());
  Result ParseEither();
  Result ParseBoth();
  Result ParseNot();
  Result ParseComparisons();
  Result ParseSum();
  Result ParseConcatenation();
  Result ParseProduct();
  Result ParsePower();
  Result ParseUnary(bool with_filters);
  Result ParsePrimary();
  Result ParseNamed();
  Result ParseTextLiteral();
  Result ParseParentheses();
  Result ParseList();
  Result ParseDict();
  // What stands behind a value: .name, [key], (arguments), |filter, is test.
  Result ParseBehind(ExpressionPtr value);
  Result ParseFiltersAndTests(ExpressionPtr value);
  Result ParseDot(ExpressionPtr of);
  Result ParseBrackets(ExpressionPtr of);
  Result ParseBounds(ExpressionPtr of, ExpressionPtr begin);
  Result ParseCall(ExpressionPtr callee);
  Result ParseTest(ExpressionPtr of);
  absl::StatusOr<CallArguments> ParseArguments();
  absl::Status CheckFilter(const std::string& name,
                           const CallArguments& arguments) const;
  absl::Status CheckCallee(const Expression& callee);
  // A comparison's sign or word at the front; false: there is none.
  bool SkipComparison(Comparison* comparison);

  // Depth is bounded, as parsing, rendering and freeing a tree recurse.
  template <class Node>
  Result New(Node node);
  absl::Status Descend();
  class Level;

  TokenStream& in_;
  int level_ = 0;
  bool tests_kind_ = false;
  std::vector<std::pair<std::string, int>> called_;
};

}  // namespace h2o::jinja

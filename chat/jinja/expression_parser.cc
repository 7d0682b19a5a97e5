// Jinja's expressions, from the weakest operator to the strongest.
#include "chat/jinja/expression_parser.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/parser.h"

namespace h2o::jinja {
namespace {

using Kind = Token::Kind;

// The greatest depth of what a node holds.
void Deepen(const ExpressionPtr& child, int* depth) {
  if (child != nullptr) *depth = std::max(*depth, child->depth);
}

void Deepen(const std::vector<ExpressionPtr>& children, int* depth) {
  for (const ExpressionPtr& child : children) Deepen(child, depth);
}

void Deepen(const CallArguments& arguments, int* depth) {
  Deepen(arguments.positional, depth);
  for (const auto& [name, value] : arguments.named) Deepen(value, depth);
}

struct DepthOf {
  int operator()(const Constant&) const { return 0; }
  int operator()(const Variable&) const { return 0; }
  int operator()(const ListLiteral& node) const { return Of(node.items); }
  int operator()(const DictLiteral& node) const {
    int depth = 0;
    for (const auto& [key, value] : node.entries) {
      Deepen(key, &depth);
      Deepen(value, &depth);
    }
    return depth;
  }
  int operator()(const Attribute& node) const { return Of(node.of); }
  int operator()(const Item& node) const { return Of(node.of, node.key); }
  int operator()(const SliceOf& node) const {
    return Of(node.of, node.begin, node.end, node.step);
  }
  int operator()(const Call& node) const {
    return Of(node.callee, node.arguments);
  }
  int operator()(const Filtered& node) const {
    return Of(node.of, node.arguments);
  }
  int operator()(const Tested& node) const {
    return Of(node.of, node.arguments);
  }
  int operator()(const Not& node) const { return Of(node.of); }
  int operator()(const Sign& node) const { return Of(node.of); }
  int operator()(const Arithmetic& node) const { return Of(node.a, node.b); }
  int operator()(const Comparisons& node) const {
    int depth = Of(node.first);
    for (const auto& [comparison, value] : node.next) Deepen(value, &depth);
    return depth;
  }
  int operator()(const Either& node) const { return Of(node.a, node.b); }
  int operator()(const Both& node) const { return Of(node.a, node.b); }
  int operator()(const Concatenation& node) const { return Of(node.parts); }
  int operator()(const Choice& node) const {
    return Of(node.condition, node.then, node.otherwise);
  }

 private:
  template <class... Children>
  static int Of(const Children&... children) {
    int depth = 0;
    (Deepen(children, &depth), ...);
    return depth;
  }
};

const std::string* TextIn(const ExpressionPtr& expression) {
  if (expression == nullptr) return nullptr;
  const Constant* constant = std::get_if<Constant>(&expression->of);
  return constant == nullptr ? nullptr
                             : std::get_if<std::string>(&constant->value);
}

std::string NotSupported(std::string_view what, const std::string& name) {
  return absl::StrCat(std::string(what), " '", name, "' is not supported");
}

}  // namespace

// One more level of what is within each other while it is parsed.
class ExpressionParser::Level {
 public:
  explicit Level(ExpressionParser* parser) : parser_(parser) {
    ++parser_->level_;
  }
  ~Level() { --parser_->level_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

  absl::Status Check() const {
    if (parser_->level_ <= kMaxExpressionDepth) return absl::OkStatus();
    return parser_->in_.Fault(absl::StrCat(
        "expressions are nested deeper than ", kMaxExpressionDepth));
  }

 private:
  ExpressionParser* const parser_;
};

template <class Node>
ExpressionParser::Result ExpressionParser::New(Node node) {
  const int depth = DepthOf()(node) + 1;
  auto expression = std::make_unique<Expression>();
  expression->of = std::move(node);
  expression->depth = depth;
  if (depth <= kMaxExpressionDepth) return expression;
  return in_.Fault(absl::StrCat("an expression is nested deeper than ",
                                kMaxExpressionDepth));
}

ExpressionParser::Result ExpressionParser::ParseTuple() {
  return ParseItems(&ExpressionParser::ParseExpression);
}

ExpressionParser::Result ExpressionParser::ParsePlainTuple() {
  return ParseItems(&ExpressionParser::ParseEither);
}

ExpressionParser::Result ExpressionParser::ParseItems(
    Result (ExpressionParser::*parse)()) {
  H2O_ASSIGN_OR_RETURN(ExpressionPtr first, (this->*parse)());
  if (!in_.IsSign(",")) return first;
  ListLiteral tuple{.is_tuple = true};
  tuple.items.push_back(std::move(first));
  while (in_.SkipSign(",")) {
    // A comma may be the last.
    if (in_.Is(Kind::kPrintEnd) || in_.Is(Kind::kBlockEnd) || in_.IsSign(")") ||
        in_.IsSign("]")) {
      break;
    }
    H2O_ASSIGN_OR_RETURN(ExpressionPtr item, (this->*parse)());
    tuple.items.push_back(std::move(item));
  }
  return New(std::move(tuple));
}

ExpressionParser::Result ExpressionParser::ParseExpression() {
  const Level level(this);
  H2O_RETURN_IF_ERROR(level.Check());
  H2O_ASSIGN_OR_RETURN(ExpressionPtr then, ParseEither());
  while (in_.SkipName("if")) {
    Choice choice{.then = std::move(then)};
    H2O_ASSIGN_OR_RETURN(choice.condition, ParseEither());
    if (in_.SkipName("else")) {
      H2O_ASSIGN_OR_RETURN(choice.otherwise, ParseExpression());
    }
    H2O_ASSIGN_OR_RETURN(then, New(std::move(choice)));
  }
  return then;
}

ExpressionParser::Result ExpressionParser::ParseEither() {
  H2O_ASSIGN_OR_RETURN(ExpressionPtr a, ParseBoth());
  while (in_.SkipName("or")) {
    H2O_ASSIGN_OR_RETURN(ExpressionPtr b, ParseBoth());
    H2O_ASSIGN_OR_RETURN(a, New(Either{std::move(a), std::move(b)}));
  }
  return a;
}

ExpressionParser::Result ExpressionParser::ParseBoth() {
  H2O_ASSIGN_OR_RETURN(ExpressionPtr a, ParseNot());
  while (in_.SkipName("and")) {
    H2O_ASSIGN_OR_RETURN(ExpressionPtr b, ParseNot());
    H2O_ASSIGN_OR_RETURN(a, New(Both{std::move(a), std::move(b)}));
  }
  return a;
}

ExpressionParser::Result ExpressionParser::ParseNot() {
  if (!in_.SkipName("not")) return ParseComparisons();
  const Level level(this);
  H2O_RETURN_IF_ERROR(level.Check());
  H2O_ASSIGN_OR_RETURN(ExpressionPtr of, ParseNot());
  return New(Not{std::move(of)});
}

bool ExpressionParser::SkipComparison(Comparison* comparison) {
  constexpr std::pair<std::string_view, Comparison> kSigns[] = {
      {"==", Comparison::kEqual},  {"!=", Comparison::kNotEqual},
      {"<", Comparison::kLess},    {"<=", Comparison::kLessOrEqual},
      {">", Comparison::kGreater}, {">=", Comparison::kGreaterOrEqual},
  };
  for (const auto& [sign, meaning] : kSigns) {
    *comparison = meaning;
    if (in_.SkipSign(sign)) return true;
  }
  *comparison = Comparison::kIn;
  if (in_.SkipName("in")) return true;
  *comparison = Comparison::kNotIn;
  if (!in_.IsName("not") || in_.Ahead().kind != Kind::kName ||
      in_.Ahead().text != "in") {
    return false;
  }
  in_.Take();
  in_.Take();
  return true;
}

ExpressionParser::Result ExpressionParser::ParseComparisons() {
  Comparisons node;
  H2O_ASSIGN_OR_RETURN(node.first, ParseSum());
  Comparison comparison;
  while (SkipComparison(&comparison)) {
    H2O_ASSIGN_OR_RETURN(ExpressionPtr next, ParseSum());
    node.next.emplace_back(comparison, std::move(next));
  }
  if (node.next.empty()) return std::move(node.first);
  return New(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParseSum() {
  H2O_ASSIGN_OR_RETURN(ExpressionPtr a, ParseConcatenation());
  while (in_.IsSign("+") || in_.IsSign("-")) {
    const Operator op =
        in_.Take().text == "+" ? Operator::kAdd : Operator::kSubtract;
    H2O_ASSIGN_OR_RETURN(ExpressionPtr b, ParseConcatenation());
    H2O_ASSIGN_OR_RETURN(a, New(Arithmetic{op, std::move(a), std::move(b)}));
  }
  return a;
}

ExpressionParser::Result ExpressionParser::ParseConcatenation() {
  H2O_ASSIGN_OR_RETURN(ExpressionPtr first, ParseProduct());
  if (!in_.IsSign("~")) return first;
  Concatenation node;
  node.parts.push_back(std::move(first));
  while (in_.SkipSign("~")) {
    H2O_ASSIGN_OR_RETURN(ExpressionPtr part, ParseProduct());
    node.parts.push_back(std::move(part));
  }
  return New(std::move(node));
}

ExpressionParser::Result ExpressionParser::ParseProduct() {
  constexpr std::pair<std::string_view, Operator> kSigns[] = {
      {"*", Operator::kMultiply},
      {"/", Operator::kDivide},
      {"//", Operator::kFloorDivide},
      {"%", Operator::kModulo},
  };
  H2O_ASSIGN_OR_RETURN(ExpressionPtr a, ParsePower());
  while (true) {
    const auto* found =
        std::find_if(std::begin(kSigns), std::end(kSigns),
                     [&](const auto& sign) { return in_.IsSign(sign.first); });
    if (found == std::end(kSigns)) return a;
    in_.Take();
    H2O_ASSIGN_OR_RETURN(ExpressionPtr b, ParsePower());
    H2O_ASSIGN_OR_RETURN(
        a, New(Arithmetic{found->second, std::move(a), std::move(b)}));
  }
}

ExpressionParser::Result ExpressionParser::ParsePower() {
  H2O_ASSIGN_OR_RETURN(ExpressionPtr a, ParseUnary(true));
  while (in_.SkipSign("**")) {
    H2O_ASSIGN_OR_RETURN(ExpressionPtr b, ParseUnary(true));
    H2O_ASSIGN_OR_RETURN(
        a, New(Arithmetic{Operator::kPower, std::move(a), std::move(b)}));
  }
  return a;
}

ExpressionParser::Result ExpressionParser::ParseUnary(bool with_filters) {
  ExpressionPtr value;
  if (in_.IsSign("-") || in_.IsSign("+")) {
    const Level level(this);
    H2O_RETURN_IF_ERROR(level.Check());
    const bool negative = in_.Take().text == "-";
    H2O_ASSIGN_OR_RETURN(ExpressionPtr of, ParseUnary(false));
    H2O_ASSIGN_OR_RETURN(value, New(Sign{std::move(of), negative}));
  } else {
    H2O_ASSIGN_OR_RETURN(value, ParsePrimary());
  }
  H2O_ASSIGN_OR_RETURN(value, ParseBehind(std::move(value)));
  return with_filters ? ParseFiltersAndTests(std::move(value))
                      : Result(std::move(value));
}

ExpressionParser::Result ExpressionParser::ParsePrimary() {
  switch (in_.Now().kind) {
    case Kind::kName:
      return ParseNamed();
    case Kind::kText:
      return ParseTextLiteral();
    case Kind::kInteger:
      return New(Constant{in_.Take().integer});
    case Kind::kFloat:
      return New(Constant{in_.Take().number});
    default:
      break;
  }
  if (in_.IsSign("(")) return ParseParentheses();
  if (in_.IsSign("[")) return ParseList();
  if (in_.IsSign("{")) return ParseDict();
  return in_.Fault("expected a value");
}

ExpressionParser::Result ExpressionParser::ParseNamed() {
  const std::string& name = in_.Now().text;
  // Words of the grammar, and what only Jinja's own objects have.
  for (std::string_view other :
       {"varargs", "kwargs", "caller", "self", "super"}) {
    if (name == other) return in_.Fault(NotSupported("name", name));
  }
  in_.Take();
  if (name == "true" || name == "True") return New(Constant{true});
  if (name == "false" || name == "False") return New(Constant{false});
  if (name == "none" || name == "None") return New(Constant{None{}});
  return New(Variable{name});
}

// Texts in a row are one.
ExpressionParser::Result ExpressionParser::ParseTextLiteral() {
  std::string text;
  while (in_.Is(Kind::kText)) text += in_.Take().text;
  return New(Constant{std::move(text)});
}

ExpressionParser::Result ExpressionParser::ParseParentheses() {
  in_.Take();
  if (in_.SkipSign(")")) return New(ListLiteral{.is_tuple = true});
  H2O_ASSIGN_OR_RETURN(ExpressionPtr value, ParseTuple());
  H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, ")"));
  return value;
}

ExpressionParser::Result ExpressionParser::ParseList() {
  in_.Take();
  ListLiteral list;
  while (!in_.IsSign("]")) {
    H2O_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression());
    list.items.push_back(std::move(item));
    if (!in_.SkipSign(",")) break;
  }
  H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, "]"));
  return New(std::move(list));
}

ExpressionParser::Result ExpressionParser::ParseDict() {
  in_.Take();
  DictLiteral dict;
  while (!in_.IsSign("}")) {
    H2O_ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
    H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, ":"));
    H2O_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
    dict.entries.emplace_back(std::move(key), std::move(value));
    if (!in_.SkipSign(",")) break;
  }
  H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, "}"));
  return New(std::move(dict));
}

ExpressionParser::Result ExpressionParser::ParseBehind(ExpressionPtr value) {
  while (in_.Is(Kind::kSign)) {
    Result next = in_.IsSign(".")   ? ParseDot(std::move(value))
                  : in_.IsSign("[") ? ParseBrackets(std::move(value))
                  : in_.IsSign("(") ? ParseCall(std::move(value))
                                    : nullptr;
    H2O_RETURN_IF_ERROR(next.status());
    if (*next == nullptr) break;
    value = *std::move(next);
  }
  return value;
}

ExpressionParser::Result ExpressionParser::ParseFiltersAndTests(
    ExpressionPtr value) {
  while (true) {
    if (in_.SkipSign("|")) {
      H2O_ASSIGN_OR_RETURN(Filtered filtered, ParseFilter());
      filtered.of = std::move(value);
      H2O_ASSIGN_OR_RETURN(value, New(std::move(filtered)));
    } else if (in_.SkipName("is")) {
      H2O_ASSIGN_OR_RETURN(value, ParseTest(std::move(value)));
    } else if (in_.IsSign("(")) {
      H2O_ASSIGN_OR_RETURN(value, ParseCall(std::move(value)));
    } else {
      return value;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseDot(ExpressionPtr of) {
  in_.Take();
  if (in_.Is(Kind::kInteger)) {
    H2O_ASSIGN_OR_RETURN(ExpressionPtr key, New(Constant{in_.Take().integer}));
    return New(Item{std::move(of), std::move(key)});
  }
  if (!in_.Is(Kind::kName)) return in_.Fault("expected a name behind '.'");
  // Python's own attributes are a way out of the sandbox.
  if (in_.Now().text.starts_with('_')) {
    return in_.Fault(NotSupported("attribute", in_.Now().text));
  }
  return New(Attribute{std::move(of), in_.Take().text});
}

ExpressionParser::Result ExpressionParser::ParseBrackets(ExpressionPtr of) {
  in_.Take();
  if (in_.IsSign(":")) return ParseBounds(std::move(of), nullptr);
  H2O_ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
  if (in_.IsSign(":")) return ParseBounds(std::move(of), std::move(key));
  H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, "]"));
  return New(Item{std::move(of), std::move(key)});
}

ExpressionParser::Result ExpressionParser::ParseBounds(ExpressionPtr of,
                                                       ExpressionPtr begin) {
  SliceOf slice{.of = std::move(of), .begin = std::move(begin)};
  for (ExpressionPtr* bound : {&slice.end, &slice.step}) {
    if (!in_.SkipSign(":")) break;
    if (in_.IsSign(":") || in_.IsSign("]")) continue;
    H2O_ASSIGN_OR_RETURN(*bound, ParseExpression());
  }
  H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, "]"));
  return New(std::move(slice));
}

ExpressionParser::Result ExpressionParser::ParseCall(ExpressionPtr callee) {
  H2O_RETURN_IF_ERROR(CheckCallee(*callee));
  H2O_ASSIGN_OR_RETURN(CallArguments arguments, ParseArguments());
  return New(Call{std::move(callee), std::move(arguments)});
}

absl::Status ExpressionParser::CheckCallee(const Expression& callee) {
  if (const Variable* variable = std::get_if<Variable>(&callee.of)) {
    called_.emplace_back(variable->name, in_.Now().line);
    return absl::OkStatus();
  }
  const Attribute* attribute = std::get_if<Attribute>(&callee.of);
  if (attribute == nullptr) {
    return in_.Fault(
        "a call of what is neither a name nor a method is not "
        "supported");
  }
  if (IsMethod(attribute->name)) return absl::OkStatus();
  return in_.Fault(NotSupported("method", attribute->name));
}

absl::StatusOr<CallArguments> ExpressionParser::ParseArguments() {
  CallArguments arguments;
  H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, "("));
  while (!in_.IsSign(")")) {
    if (in_.IsSign("*") || in_.IsSign("**")) {
      return in_.Fault(NotSupported("argument", in_.Now().text));
    }
    const bool is_named = in_.Is(Kind::kName) &&
                          in_.Ahead().kind == Kind::kSign &&
                          in_.Ahead().text == "=";
    std::string name;
    if (is_named) {
      name = in_.Take().text;
      in_.Take();
    } else if (!arguments.named.empty()) {
      return in_.Fault("an argument without a name stands behind a named one");
    }
    H2O_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
    if (is_named) {
      arguments.named.emplace_back(std::move(name), std::move(value));
    } else {
      arguments.positional.push_back(std::move(value));
    }
    if (!in_.SkipSign(",")) break;
  }
  H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, ")"));
  return arguments;
}

absl::StatusOr<std::string> ExpressionParser::ParseName() {
  if (!in_.Is(Kind::kName)) return in_.Fault("expected a name");
  std::string name = in_.Take().text;
  while (in_.IsSign(".") && in_.Ahead().kind == Kind::kName) {
    in_.Take();
    absl::StrAppend(&name, ".", in_.Take().text);
  }
  return name;
}

absl::StatusOr<Filtered> ExpressionParser::ParseFilter() {
  H2O_ASSIGN_OR_RETURN(const std::string name, ParseName());
  Filtered filtered{.filter = FindFilter(name)};
  if (filtered.filter == nullptr) {
    return in_.Fault(NotSupported("filter", name));
  }
  if (in_.IsSign("(")) {
    H2O_ASSIGN_OR_RETURN(filtered.arguments, ParseArguments());
  }
  H2O_RETURN_IF_ERROR(CheckFilter(name, filtered.arguments));
  return filtered;
}

// Filters that name a filter or a test.
absl::Status ExpressionParser::CheckFilter(
    const std::string& name, const CallArguments& arguments) const {
  const bool by_attribute = name == "selectattr" || name == "rejectattr";
  const size_t at = by_attribute ? 1 : 0;
  if (at >= arguments.positional.size()) return absl::OkStatus();
  const std::string* other = TextIn(arguments.positional[at]);
  if (other == nullptr) return absl::OkStatus();
  if (name == "map" && FindFilter(*other) == nullptr) {
    return in_.Fault(NotSupported("filter", *other));
  }
  if ((by_attribute || name == "select" || name == "reject") &&
      FindTest(*other) == nullptr) {
    return in_.Fault(NotSupported("test", *other));
  }
  return absl::OkStatus();
}

ExpressionParser::Result ExpressionParser::ParseTest(ExpressionPtr of) {
  const bool negated = in_.SkipName("not");
  H2O_ASSIGN_OR_RETURN(const std::string name, ParseName());
  Tested tested{.of = std::move(of), .test = FindTest(name)};
  if (tested.test == nullptr) return in_.Fault(NotSupported("test", name));
  for (std::string_view kind : {"string", "iterable", "sequence", "mapping"}) {
    tests_kind_ = tests_kind_ || name == kind;
  }
  if (in_.IsSign("(")) {
    H2O_ASSIGN_OR_RETURN(tested.arguments, ParseArguments());
  } else if (in_.IsName("is")) {
    return in_.Fault("a test of a test");
  } else {
    // One argument may stand without brackets.
    const bool ends = in_.IsName("else") || in_.IsName("or") ||
                      in_.IsName("and") || in_.IsName("if") ||
                      in_.IsName("not") || in_.IsName("in");
    const bool begins = in_.Is(Kind::kName) || in_.Is(Kind::kText) ||
                        in_.Is(Kind::kInteger) || in_.Is(Kind::kFloat) ||
                        in_.IsSign("[") || in_.IsSign("{");
    if (begins && !ends) {
      H2O_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
      H2O_ASSIGN_OR_RETURN(argument, ParseBehind(std::move(argument)));
      tested.arguments.positional.push_back(std::move(argument));
    }
  }
  H2O_ASSIGN_OR_RETURN(ExpressionPtr value, New(std::move(tested)));
  return negated ? New(Not{std::move(value)}) : Result(std::move(value));
}

}  // namespace h2o::jinja

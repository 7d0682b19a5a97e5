// Parses Jinja's statements: what stands between {% and %}.
#include "chat/jinja/parser.h"

#include <initializer_list>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "chat/jinja/expression_parser.h"
#include "chat/jinja/token_stream.h"

namespace h2o::jinja {
namespace {

using Kind = Token::Kind;
using Ends = std::initializer_list<std::string_view>;

// Whether a value is what a message says, by its name.
bool IsContent(const Expression& expression) {
  if (const auto* filtered = std::get_if<Filtered>(&expression.of)) {
    return IsContent(*filtered->of);
  }
  if (const auto* variable = std::get_if<Variable>(&expression.of)) {
    return variable->name == "content";
  }
  if (const auto* attribute = std::get_if<Attribute>(&expression.of)) {
    return attribute->name == "content";
  }
  const auto* item = std::get_if<Item>(&expression.of);
  if (item == nullptr) return false;
  const auto* key = std::get_if<Constant>(&item->key->of);
  const auto* text =
      key == nullptr ? nullptr : std::get_if<std::string>(&key->value);
  return text != nullptr && *text == "content";
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens)
      : in_(std::move(tokens)), expressions_(&in_) {}

  absl::StatusOr<Tree> Run() {
    H2O_ASSIGN_OR_RETURN(tree_.body, ParseBody({}));
    for (const auto& [name, line] : expressions_.called()) {
      if (FindFunction(name) != nullptr || assigned_.contains(name)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "line ", line, ": function '", name, "' is not supported"));
    }
    tree_.asks_kind = expressions_.tests_kind();
    return std::move(tree_);
  }

 private:
  // Up to a statement of one of these names, whose name is next.
  absl::StatusOr<Body> ParseBody(Ends ends) {
    Body body;
    if (++depth_ > kMaxBlockDepth) {
      return in_.Fault(
          absl::StrCat("blocks are nested deeper than ", kMaxBlockDepth));
    }
    const int begin_line = in_.Now().line;
    while (!in_.Is(Kind::kEnd)) {
      const int line = in_.Now().line;
      if (in_.Is(Kind::kData)) {
        body.push_back({Data{in_.Take().text}, line});
        continue;
      }
      if (in_.Is(Kind::kPrintBegin)) {
        in_.Take();
        Output output;
        H2O_ASSIGN_OR_RETURN(output.value, expressions_.ParseTuple());
        H2O_RETURN_IF_ERROR(in_.Expect(Kind::kPrintEnd));
        body.push_back({std::move(output), line});
        continue;
      }
      H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockBegin));
      for (std::string_view end : ends) {
        if (!in_.IsName(end)) continue;
        --depth_;
        return body;
      }
      H2O_ASSIGN_OR_RETURN(Statement statement, ParseStatement());
      statement.line = line;
      body.push_back(std::move(statement));
    }
    --depth_;
    if (ends.size() == 0) return body;
    return in_.Fault(absl::StrCat("the block of line ", begin_line,
                                  " has no {% ", std::string(*(ends.end() - 1)),
                                  " %}"));
  }

  // A body up to {% end %}.
  absl::StatusOr<Body> ParseBlock(std::string_view end) {
    H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockEnd));
    H2O_ASSIGN_OR_RETURN(Body body, ParseBody({end}));
    in_.Take();
    H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockEnd));
    return body;
  }

  absl::StatusOr<Statement> ParseStatement() {
    if (in_.SkipName("if")) return ParseIf();
    if (in_.SkipName("for")) return ParseFor();
    if (in_.SkipName("set")) return ParseSet();
    if (in_.SkipName("macro")) return ParseMacro();
    if (in_.SkipName("generation")) {
      H2O_ASSIGN_OR_RETURN(Body body, ParseBlock("endgeneration"));
      return Statement{Scoped{std::move(body)}};
    }
    if (in_.IsName("break") || in_.IsName("continue")) return ParseJump();
    if (!in_.Is(Kind::kName)) return in_.Fault("expected a statement");
    return in_.Fault(absl::StrCat("statement '", in_.Now().text,
                                  in_.Now().text.starts_with("end") ||
                                          in_.IsName("else") ||
                                          in_.IsName("elif")
                                      ? "' belongs to no block"
                                      : "' is not supported"));
  }

  absl::StatusOr<Statement> ParseJump() {
    if (loops_ == 0) {
      return in_.Fault(absl::StrCat("'", in_.Now().text, "' is in no loop"));
    }
    const bool is_break = in_.Take().text == "break";
    H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockEnd));
    return is_break ? Statement{Break{}} : Statement{Continue{}};
  }

  absl::StatusOr<Statement> ParseIf() {
    If node;
    while (true) {
      ExpressionPtr condition;
      H2O_ASSIGN_OR_RETURN(condition, expressions_.ParsePlainTuple());
      H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockEnd));
      H2O_ASSIGN_OR_RETURN(Body body, ParseBody({"elif", "else", "endif"}));
      node.branches.emplace_back(std::move(condition), std::move(body));
      if (!in_.SkipName("elif")) break;
    }
    if (in_.SkipName("else")) {
      H2O_ASSIGN_OR_RETURN(node.otherwise, ParseBlock("endif"));
    } else {
      in_.Take();
      H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockEnd));
    }
    return Statement{std::move(node)};
  }

  absl::StatusOr<Statement> ParseFor() {
    For node;
    H2O_ASSIGN_OR_RETURN(node.target, ParseTarget(/*attributes=*/false));
    H2O_RETURN_IF_ERROR(in_.Expect(Kind::kName, "in"));
    H2O_ASSIGN_OR_RETURN(node.items, expressions_.ParsePlainTuple());
    tree_.goes_over_content = tree_.goes_over_content || IsContent(*node.items);
    if (in_.SkipName("if")) {
      H2O_ASSIGN_OR_RETURN(node.condition, expressions_.ParseExpression());
    }
    if (in_.IsName("recursive")) {
      return in_.Fault("'recursive' is not supported");
    }
    H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockEnd));
    ++loops_;
    H2O_ASSIGN_OR_RETURN(node.body, ParseBody({"else", "endfor"}));
    --loops_;
    if (in_.SkipName("else")) {
      H2O_ASSIGN_OR_RETURN(node.otherwise, ParseBlock("endfor"));
    } else {
      in_.Take();
      H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockEnd));
    }
    return Statement{std::move(node)};
  }

  absl::StatusOr<std::string> ParseAssigned() {
    for (std::string_view word :
         {"true", "True", "false", "False", "none", "None"}) {
      if (in_.IsName(word)) return in_.Fault("a constant cannot be assigned");
    }
    if (!in_.Is(Kind::kName)) return in_.Fault("expected a name to assign to");
    assigned_.insert(in_.Now().text);
    return in_.Take().text;
  }

  absl::StatusOr<Target> ParseTarget(bool attributes) {
    Target target;
    const bool in_brackets = in_.SkipSign("(");
    while (true) {
      H2O_ASSIGN_OR_RETURN(std::string name, ParseAssigned());
      target.names.push_back(std::move(name));
      if (attributes && !target.unpacks && in_.SkipSign(".")) {
        if (!in_.Is(Kind::kName)) return in_.Fault("expected an attribute");
        target.attribute = in_.Take().text;
        return target;
      }
      if (!in_.SkipSign(",")) break;
      target.unpacks = true;
      if (!in_.Is(Kind::kName) || in_.IsName("in")) break;
    }
    if (in_brackets) H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, ")"));
    return target;
  }

  absl::StatusOr<Statement> ParseSet() {
    H2O_ASSIGN_OR_RETURN(Target target, ParseTarget(/*attributes=*/true));
    if (in_.SkipSign("=")) {
      Set node{.target = std::move(target)};
      H2O_ASSIGN_OR_RETURN(node.value, expressions_.ParseTuple());
      H2O_RETURN_IF_ERROR(in_.Expect(Kind::kBlockEnd));
      return Statement{std::move(node)};
    }
    SetBlock node{.target = std::move(target)};
    while (in_.SkipSign("|")) {
      H2O_ASSIGN_OR_RETURN(Filtered filtered, expressions_.ParseFilter());
      node.filters.push_back(std::move(filtered));
    }
    H2O_ASSIGN_OR_RETURN(node.body, ParseBlock("endset"));
    return Statement{std::move(node)};
  }

  absl::StatusOr<Statement> ParseMacro() {
    auto node = std::make_unique<MacroStatement>();
    H2O_ASSIGN_OR_RETURN(node->name, ParseAssigned());
    H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, "("));
    while (!in_.IsSign(")")) {
      H2O_ASSIGN_OR_RETURN(std::string name, ParseAssigned());
      ExpressionPtr otherwise;
      if (in_.SkipSign("=")) {
        H2O_ASSIGN_OR_RETURN(otherwise, expressions_.ParseExpression());
      } else if (!node->parameters.empty() &&
                 node->parameters.back().second != nullptr) {
        return in_.Fault("a parameter behind one with a default has none");
      }
      node->parameters.emplace_back(std::move(name), std::move(otherwise));
      if (!in_.SkipSign(",")) break;
    }
    H2O_RETURN_IF_ERROR(in_.Expect(Kind::kSign, ")"));
    const int loops = std::exchange(loops_, 0);
    H2O_ASSIGN_OR_RETURN(node->body, ParseBlock("endmacro"));
    loops_ = loops;
    return Statement{std::move(node)};
  }

  TokenStream in_;
  ExpressionParser expressions_;
  Tree tree_;
  int depth_ = 0;  // of blocks
  int loops_ = 0;  // around what is parsed
  std::set<std::string> assigned_;
};

}  // namespace

absl::StatusOr<Tree> Parse(std::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the template has ", source.size(), " bytes; at most ",
                     kMaxTemplateBytes, " are read"));
  }
  H2O_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace h2o::jinja

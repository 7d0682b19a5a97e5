// A template as a tree.  The tree never changes once it is parsed, so any
// number of threads may render it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "chat/jinja/operators.h"
#include "chat/jinja/value.h"
#include "chat/jinja/vocabulary.h"

namespace h2o::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;  // null: not given

struct Constant {
  std::variant<None, bool, int64_t, double, std::string> value;
};
struct Variable {
  std::string name;
};
struct ListLiteral {
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
};
struct DictLiteral {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};
struct Attribute {  // of.name
  ExpressionPtr of;
  std::string name;
};
struct Item {  // of[key]
  ExpressionPtr of, key;
};
struct SliceOf {  // of[begin:end:step]
  ExpressionPtr of, begin, end, step;
};
struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};
struct Call {
  ExpressionPtr callee;
  CallArguments arguments;
};
struct Filtered {    // of | filter(arguments)
  ExpressionPtr of;  // null: the body of a {% set %} block
  const Filter* filter;
  CallArguments arguments;
};
struct Tested {  // of is test(arguments)
  ExpressionPtr of;
  const Test* test;
  CallArguments arguments;
};
struct Not {
  ExpressionPtr of;
};
struct Sign {  // -of, +of
  ExpressionPtr of;
  bool negative;
};
struct Arithmetic {
  Operator op;
  ExpressionPtr a, b;
};
struct Comparisons {  // first op next op next ..
  ExpressionPtr first;
  std::vector<std::pair<Comparison, ExpressionPtr>> next;
};
struct Either {  // a or b
  ExpressionPtr a, b;
};
struct Both {  // a and b
  ExpressionPtr a, b;
};
struct Concatenation {  // parts with ~ between them
  std::vector<ExpressionPtr> parts;
};
struct Choice {  // then if condition else otherwise
  ExpressionPtr condition, then, otherwise;
};

struct Expression {
  std::variant<Constant, Variable, ListLiteral, DictLiteral, Attribute, Item,
               SliceOf, Call, Filtered, Tested, Not, Sign, Arithmetic,
               Comparisons, Either, Both, Concatenation, Choice>
      of;
  int depth = 1;  // of expressions within each other
};

struct Statement;
using Body = std::vector<Statement>;

// What a `for` or a `set` gives a value to: a name, names in a row, or an
// attribute of a namespace.
struct Target {
  std::vector<std::string> names;
  bool unpacks = false;   // (a, b), and (a,)
  std::string attribute;  // of the namespace names[0]; empty: none
};

struct Data {
  std::string text;
};
struct Output {
  ExpressionPtr value;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
};
struct For {
  Target target;
  ExpressionPtr items, condition;
  Body body, otherwise;
};
struct Set {
  Target target;
  ExpressionPtr value;
};
struct SetBlock {
  Target target;
  std::vector<Filtered> filters;
  Body body;
};
struct MacroStatement {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;
  Body body;
};
struct Scoped {  // {% generation %}
  Body body;
};
struct Break {};
struct Continue {};

struct Statement {
  std::variant<Data, Output, If, For, Set, SetBlock,
               std::unique_ptr<MacroStatement>, Scoped, Break, Continue>
      of;
  int line = 1;
};

struct Tree {
  Body body;
  // A `for` goes over the content of messages: they may be lists of parts.
  bool goes_over_content = false;
  // Something asks what kind of value a content is.
  bool asks_kind = false;
};

}  // namespace h2o::jinja

// Tests what templates may use, what is refused when they are loaded, and what
// bounds them.  That the values are those of Jinja itself is
// test_templates.py's to show.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "chat/jinja/parser.h"
#include "chat/jinja/renderer.h"

namespace h2o::jinja {
namespace {

using testing::HasSubstr;

// What the template writes, or "! " and why not.
std::string Rendered(const std::string& source, const Limits& limits = {}) {
  const auto tree = Parse(source);
  if (!tree.ok()) return absl::StrCat("! ", tree.status().message());
  std::tm now = {};
  now.tm_year = 124;
  now.tm_mday = 3;
  Run run(limits, now);
  const auto json = nlohmann::ordered_json::parse(
      R"({"n": 7, "s": "h\u00e9llo", "l": [1, 2, 3], "d": {"b": 1, "a": null}})");
  Variables variables;
  for (const auto& [name, value] : json.items()) {
    variables.emplace_back(name, *FromJson(run.work, value));
  }
  const auto text = Render(*tree, std::move(variables), run);
  return text.ok() ? *text : absl::StrCat("! ", text.status().message());
}

TEST(Jinja, TakesWhiteSpaceAwayAsTransformersSetsIt) {
  EXPECT_EQ(Rendered("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"),
            "a\n  b\nc");
  EXPECT_EQ(Rendered("a  {%- if true -%}  b  {%- endif %}  c"), "ab  c");
  EXPECT_EQ(Rendered("a\n  {%+ if true +%}\nb{% endif %}"), "a\n  \nb");
  EXPECT_EQ(Rendered("a\n  {# note #}\n{{ 1 }}\n b"), "a\n1\n b");
  EXPECT_EQ(Rendered("a \n {{- 1 -}} \n b"), "a1b");
}

TEST(Jinja, ReachesIntoValues) {
  EXPECT_EQ(Rendered("{{ d.b }}{{ d['a'] }}{{ l[-1] }}{{ s[1:3] }}"),
            "1None3\u00e9l");
  EXPECT_EQ(Rendered("{{ l[::-1] }}{{ s | length }}{{ missing }}"),
            "[3, 2, 1]5");
  EXPECT_EQ(Rendered("{{ d.items() | list }}"), "[('b', 1), ('a', None)]");
}

TEST(Jinja, KeepsScopes) {
  EXPECT_EQ(Rendered("{% set x = 1 %}{% for i in l %}{% set x = i %}{{ x }}"
                     "{% endfor %}{{ x }}"),
            "1231");
  EXPECT_EQ(Rendered("{% set c = namespace(x=0) %}{% for i in l %}"
                     "{% set c.x = c.x + i %}{% endfor %}{{ c.x }}"),
            "6");
  EXPECT_EQ(Rendered("{% macro f(a, b=2) %}{{ a }}{{ b }}{{ n }}{% endmacro %}"
                     "{{ f(1) }} {{ f(1, b=3) }}"),
            "127 137");
}

TEST(Jinja, WalksThroughLoops) {
  EXPECT_EQ(Rendered("{% for i in l if i != 2 %}{{ loop.index }}{{ i }}"
                     "{{ ',' if not loop.last }}{% else %}none{% endfor %}"),
            "11,23");
  EXPECT_EQ(Rendered("{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}"),
            "b=1;a=None;");
  EXPECT_EQ(Rendered("{% for i in range(9) %}{% if i == 1 %}{% continue %}"
                     "{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}"
                     "{% endfor %}"),
            "023");
}

TEST(Jinja, TellsTheTime) {
  EXPECT_EQ(Rendered("{{ strftime_now('%d %b %Y') }}"), "03 Jan 2024");
}

TEST(Jinja, RefusesByNameWhenItLoads) {
  const std::pair<const char*, const char*> kCases[] = {
      {"{% include 'x' %}", "line 1: statement 'include' is not supported"},
      {"\n{% call f() %}", "line 2: statement 'call' is not supported"},
      {"{{ x | urlize }}", "filter 'urlize' is not supported"},
      {"{{ l | map('urlize') }}", "filter 'urlize' is not supported"},
      {"{{ l | select('prime') }}", "test 'prime' is not supported"},
      {"{{ x is prime }}", "test 'prime' is not supported"},
      {"{{ l.append(1) }}", "method 'append' is not supported"},
      {"{{ lipsum() }}", "function 'lipsum' is not supported"},
      {"{{ s.__class__ }}", "attribute '__class__' is not supported"},
      {"{% for x in l recursive %}", "'recursive' is not supported"},
      {"{% macro f() %}{{ varargs }}{% endmacro %}", "name 'varargs'"},
      {"{{ f(*l) }}", "argument '*' is not supported"},
      {"{% if x %}", "has no {% endif %}"},
      {"{% endif %}", "'endif' belongs to no block"},
      {"{% break %}", "'break' is in no loop"},
      {"{{ 'x }}", "has no end"},
      {"{{ x", "a block has no end }}"},
      {"{# x", "has no end #}"},
      {"{{ (x] }}", "closes no bracket"},
      {"{{ 99999999999999999999 }}", "64 bits"},
      {"\xff", "byte"},
  };
  for (const auto& [source, why] : kCases) {
    EXPECT_THAT(Rendered(source), HasSubstr(why)) << source;
  }
}

TEST(Jinja, SaysWhatDoesNotGoTogether) {
  const std::pair<const char*, const char*> kCases[] = {
      {"{{ missing.x }}", "line 1: 'missing' is undefined"},
      {"\n{{ s + n }}", "line 2: no + of str and int"},
      {"{{ n / 0 }}", "division by zero"},
      {"{{ n > s }}", "no > of int and str"},
      {"{% for x in n %}{% endfor %}", "a int has no items"},
      {"{{ 9223372036854775807 + 1 }}", "more than 64 bits"},
      {"{{ s.split('') }}", "split at an empty text"},
      {"{{ d | tojson(indent=s) | length }}{{ range | tojson }}", "as JSON"},
      {"{% set x.y = 1 %}", "'x' is no namespace"},
  };
  for (const auto& [source, why] : kCases) {
    EXPECT_THAT(Rendered(source), HasSubstr(why)) << source;
  }
}

// A hostile template ends at a limit: it takes neither time nor memory.
TEST(Jinja, IsBounded) {
  const Limits kSmall = {
      .steps = 100'000, .bytes = 1 << 20, .output_bytes = 1 << 16};
  const std::pair<std::string, const char*> kCases[] = {
      {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
       "{% endfor %}",
       "more than"},
      {"{% set c = namespace(x='ab') %}{% for i in range(99) %}"
       "{% set c.x = c.x ~ c.x %}{% endfor %}",
       "bytes"},
      {"{{ 'x' * 9999999999 }}", "bytes"},
      {"{{ [1] * 9223372036854775807 }}", "bytes"},
      {"{% for i in range(9999) %}{{ 'xxxxxxxxxxxxxxxxxx' }}{% endfor %}",
       "writes more than 65536 bytes"},
      {"{% set c = namespace(x=1) %}{% for i in range(9999) %}"
       "{% set c.x = [c.x] %}{% endfor %}",
       "nested deeper than 64"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
       "evaluations within each other"},
      {"{{ ('a' * 99999) in ('a' * 99998 ~ 'b') }}"
       "{{ ('a' * 9999 ~ 'b') in ('a' * 99998) }}",
       "steps"},
      {"{{ 'a'.replace('', 'b' * 99999).replace('b', 'c' * 99) }}", "bytes"},
      {"{{ range(100001) }}", "at most 100000"},
      {std::string(101, '(') + "1" + std::string(101, ')'), "1"},
  };
  for (const auto& [source, why] : kCases) {
    EXPECT_THAT(Rendered(source, kSmall), HasSubstr(why)) << source;
  }
  const std::pair<const char*, const char*> kParts[] = {
      {"(", ")"}, {"[", "]"},    {"not ", ""},
      {"-", ""},  {"1 if ", ""}, {"{1:", "}"}};
  for (const auto& [begin, end] : kParts) {
    std::string source = "{{ ", ends;
    for (int i = 0; i < 5000; ++i) {
      source += begin;
      ends += end;
    }
    EXPECT_THAT(Rendered(absl::StrCat(source, "1", ends, " }}")),
                HasSubstr("nested deeper"))
        << begin;
  }
  std::string chain = "{{ x", blocks;
  for (int i = 0; i < 5000; ++i) {
    chain += ".a";
    blocks += "{% if x %}";
  }
  EXPECT_THAT(Rendered(chain + " }}"), HasSubstr("nested deeper"));
  EXPECT_THAT(Rendered(blocks), HasSubstr("nested deeper"));
}

// A namespace that holds itself is freed (the address sanitizer watches).
TEST(Jinja, FreesCircles) {
  EXPECT_EQ(Rendered("{% set c = namespace() %}{% set c.me = [c] %}"
                     "{% for x in l %}{% set c.loop = loop %}{% endfor %}ok"),
            "ok");
}

}  // namespace
}  // namespace h2o::jinja

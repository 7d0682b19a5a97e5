// Well-formed characters, and what takes the place of others.
#include "base/utf8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace h2o {
namespace {

using ::testing::HasSubstr;

TEST(CheckUtf8, NamesTheFirstByteThatBeginsNoCharacter) {
  const std::vector<std::pair<std::string, int>> bad = {
      {"\x80", 0},
      {"ab\xff", 2},
      {"\xc0\x80", 0},            // overlong
      {"x\xc1\xbf", 1},           // overlong
      {"\xe0\x9f\xbf", 0},        // overlong
      {"\xf0\x8f\xbf\xbf", 0},    // overlong
      {"\u00e9\xed\xa0\x80", 2},  // a surrogate
      {"\xf4\x90\x80\x80", 0},    // above U+10FFFF
      {"\xf5\x80\x80\x80", 0},
      {"\u20ac\xe2\x82", 3},  // cut off
      {"a\xe2\x82z", 1},
      {"\xf0\x9f\x98", 0}};
  for (const auto& [text, offset] : bad) {
    const absl::Status status = CheckUtf8("it", text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("at offset " + std::to_string(offset) + " "));
  }
  EXPECT_EQ(CheckUtf8("stop[1]", "a\xff").message(),
            "stop[1] is not UTF-8: byte 0xff at offset 1 begins no character");
  EXPECT_TRUE(CheckUtf8("it", std::string("a\0b", 3)).ok());
  EXPECT_TRUE(CheckUtf8("it", "").ok());
  EXPECT_TRUE(CheckUtf8("it",
                        "\u0080\u07ff\u0800\ud7ff\ue000\uffff"
                        "\U00010000\U0010ffff")
                  .ok());
}

TEST(FirstCharacter, TellsTheUnfinishedFromTheBad) {
  EXPECT_EQ(FirstCharacter("\u20ac").length, 3);
  const Utf8Character cut = FirstCharacter("\xe2\x82");
  EXPECT_EQ(cut.length, 0);
  EXPECT_EQ(cut.bad_bytes, 2);
  EXPECT_TRUE(cut.unfinished);
  const Utf8Character bad = FirstCharacter("\xe2\x82z");
  EXPECT_EQ(bad.length, 0);
  EXPECT_EQ(bad.bad_bytes, 2);
  EXPECT_FALSE(bad.unfinished);
  EXPECT_EQ(FirstCharacter("\xff").bad_bytes, 1);
}

}  // namespace
}  // namespace h2o

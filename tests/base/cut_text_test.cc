// Tests that what strangers say is short and stays within its line.
#include "base/cut_text.h"

#include <gtest/gtest.h>

#include <string>

#include "base/utf8.h"

namespace h2o {
namespace {

TEST(CutText, LeavesShortTextAsItIs) {
  EXPECT_EQ(CutText(""), "");
  EXPECT_EQ(CutText("rank 1 – 10 €"), "rank 1 – 10 €");
  const std::string fits(kMaxQuotedBytes, 'a');
  EXPECT_EQ(CutText(fits), fits);
}

TEST(CutText, CutsLongTextAndTellsItsLength) {
  const std::string cut = CutText(std::string(6'000'000, 'a'));
  EXPECT_EQ(cut.size(), kMaxQuotedBytes);
  EXPECT_TRUE(cut.ends_with("aaa... (6000000 bytes)")) << cut;
  EXPECT_EQ(CutText(std::string(100, 'b'), 64).size(), 64u);
}

TEST(CutText, CutsBetweenCharacters) {
  for (int shift = 0; shift < 4; ++shift) {
    std::string text(shift, 'a');
    for (int i = 0; i < 200; ++i) text += "\U0001F600";
    const std::string cut = CutText(text);
    EXPECT_TRUE(CheckUtf8("cut", cut).ok()) << shift;
    EXPECT_LE(cut.size(), kMaxQuotedBytes);
    EXPECT_GT(cut.size(), kMaxQuotedBytes - 5);
  }
}

TEST(CutText, ManyBytesInsideACharacterAreNoCharacter) {
  EXPECT_LE(CutText(std::string(1000, '\x80')).size(), kMaxQuotedBytes);
}

TEST(CutText, StaysWithinItsLine) {
  EXPECT_EQ(CutText("a\nb\r\x1b[31mc\x7f\t"), "a?b??[31mc??");
}

}  // namespace
}  // namespace h2o

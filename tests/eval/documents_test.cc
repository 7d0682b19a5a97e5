// Texts are split into documents, or cut into windows.
#include "eval/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(SplitDocuments, AtNulBytesOrBlankLines) {
  using std::string_view_literals::operator""sv;
  EXPECT_THAT(SplitDocuments("a\n\nb\0 \0c\n"sv), ElementsAre("a\n\nb", "c\n"));
  EXPECT_THAT(SplitDocuments("\n\na\nb\n \t\n\nc\nd"),
              ElementsAre("a\nb", "c\nd"));
  EXPECT_THAT(SplitDocuments("a"), ElementsAre("a"));
  EXPECT_THAT(SplitDocuments(""), IsEmpty());
  EXPECT_THAT(SplitDocuments(" \n\n "), IsEmpty());
}

class ReadDocumentsTest : public ::testing::Test {
 protected:
  static const Tokenizer& OptDemo() {
    static const auto tokenizer =
        Tokenizer::Load("models/opt-demo", 1 << 20).value();
    return *tokenizer;
  }
  absl::StatusOr<TokenRows> Read(const std::string& text, int most,
                                 int length) {
    return ReadDocuments(directory_.Write("text", text), OptDemo(), most,
                         length);
  }

  TempDirectory directory_;
};

TEST_F(ReadDocumentsTest, TakesTheFirstThatAreLongEnough) {
  const auto rows =
      Read("one\n\nthis one is long enough\n\nand so is this", 8, 4);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2U);
  auto whole = OptDemo().Encode("and so is this").value();
  whole.resize(4);
  EXPECT_EQ((*rows)[1], whole);
  EXPECT_EQ(
      Read("one\n\nthis one is long enough\n\nand so is this", 1, 4)->size(),
      1U);
}

TEST_F(ReadDocumentsTest, CutsALongTextIntoWindows) {
  const std::string text = "a b c d e f g h\n\ni j k l m n";
  const auto ids = OptDemo().Encode(text).value();
  const auto rows = Read(text, 8, 12);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 1U);
  EXPECT_EQ((*rows)[0], std::vector<int32_t>(ids.begin(), ids.begin() + 12));
  const auto windows = Read("a b c d e f g h i j k l m n", 2, 6);
  ASSERT_TRUE(windows.ok());
  ASSERT_EQ(windows->size(), 1U);  // it is a document of enough tokens
}

TEST_F(ReadDocumentsTest, WindowsBeginAsTextsDo) {
  std::string text;
  for (int i = 0; i < 20; ++i) text += "one two\n\n";
  const auto rows = Read(text, 3, 16);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 3U);
  const auto ids = OptDemo().Encode(text).value();
  EXPECT_EQ((*rows)[1][0], ids[0]);
  EXPECT_EQ((*rows)[1][1], ids[16]);
  EXPECT_EQ((*rows)[2][1], ids[31]);
}

TEST_F(ReadDocumentsTest, ATextThatIsTooShortIsRefused) {
  const absl::Status status = Read("a b c", 8, 100).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("100 are needed"));
  EXPECT_EQ(Read("a b \xff", 8, 2).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace h2o

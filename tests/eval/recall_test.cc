// Texts with facts: read, refused and counted.
#include "eval/recall.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

TEST(Recall, CountsFactsAllOfWhoseTokensAreRight) {
  const TempDirectory directory;
  const auto texts = ReadRecallTexts(directory.Write(
      "facts.jsonl",
      "{\"tokens\": [2, 5, 6, 7, 8], \"answers\": [[1], [2, 3], [3, 4]]}\n\n"
      "{\"tokens\": [2, 3], \"answers\": []}\n"));
  ASSERT_TRUE(texts.ok()) << texts.status();
  ASSERT_EQ(texts->size(), 2U);
  EXPECT_EQ(RightAnswers((*texts)[0], {0, 5, 6, 7, 8}), 3);
  EXPECT_EQ(RightAnswers((*texts)[0], {0, 5, 9, 7, 8}), 2);
  EXPECT_EQ(RightAnswers((*texts)[0], {0, 5, 6, 9, 8}), 1);
  EXPECT_EQ(RightAnswers((*texts)[1], {0, 0}), 0);
}

TEST(Recall, BadLinesAreNamed) {
  const TempDirectory directory;
  for (const auto& [line, says] :
       {std::pair{"[1, 2]", ":2"},
        {"{\"tokens\": [2, 3]}", "\"answers\" must be"},
        {"{\"tokens\": [], \"answers\": []}", "\"tokens\" must be"},
        {"{\"tokens\": [2, -3], \"answers\": []}", "\"tokens\" must be"},
        {"{\"tokens\": [2, 3], \"answers\": [[0]]}", "[0]; it must list"},
        {"{\"tokens\": [2, 3], \"answers\": [[2]]}", "from 1 to 1"},
        {"{\"tokens\": [2, 3], \"answers\": [[]]}", "[]; it must list"},
        {"{", "facts.jsonl:2"}}) {
    const absl::Status status =
        ReadRecallTexts(
            directory.Write(
                "facts.jsonl",
                std::string("{\"tokens\": [2], \"answers\": []}\n") + line))
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says)) << line;
    EXPECT_THAT(std::string(status.message()), HasSubstr("facts.jsonl:2"));
  }
  EXPECT_THAT(std::string(ReadRecallTexts(directory.Write("facts.jsonl", "\n"))
                              .status()
                              .message()),
              HasSubstr("has no line"));
}

}  // namespace
}  // namespace h2o

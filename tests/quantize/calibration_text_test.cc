// Files of text become sequences of tokens.
#include "quantize/calibration_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kBegin = 2;

class CalibrationText : public ::testing::Test {
 protected:
  absl::StatusOr<TokenSequences> Read(const std::string& text,
                                      int64_t tokens = 1000,
                                      int64_t length = 1000) const {
    return ReadCalibrationText(folder_.Write("text", text), *tokenizer_, tokens,
                               length);
  }
  std::vector<int32_t> TokensOf(const std::vector<std::string>& texts) const {
    std::vector<int32_t> all;
    for (const std::string& text : texts) {
      const std::vector<int32_t> tokens = tokenizer_->Encode(text).value();
      all.insert(all.end(), tokens.begin(), tokens.end());
    }
    return all;
  }

  const TempDirectory folder_;
  const std::unique_ptr<Tokenizer> tokenizer_ =
      Tokenizer::Load("models/opt-demo", 8192).value();
};

TEST_F(CalibrationText, LinesAreDocumentsUnlessThereAreNulBytes) {
  const TokenSequences lines = Read("One two.\n \n\nThree four.\n").value();
  ASSERT_EQ(lines.size(), 1);
  EXPECT_EQ(lines[0], TokensOf({"One two.", "Three four."}));
  EXPECT_EQ(lines[0][0], kBegin);
  const std::string documents("One\ntwo.\0\0Three four.", 21);
  EXPECT_EQ(Read(documents).value()[0], TokensOf({"One\ntwo.", "Three four."}));
}

TEST_F(CalibrationText, IsCutToItsLengths) {
  const std::string text = "One two three four five.\nSix seven eight nine.\n";
  const std::vector<int32_t> all = Read(text).value()[0];
  const TokenSequences cut = Read(text, 10, 4).value();
  ASSERT_EQ(cut.size(), 3);
  EXPECT_EQ(cut[0].size(), 4);
  EXPECT_EQ(cut[1], std::vector<int32_t>(all.begin() + 4, all.begin() + 8));
  EXPECT_EQ(cut[2], std::vector<int32_t>(all.begin() + 8, all.begin() + 10));
}

TEST_F(CalibrationText, WithoutTextThereIsNothingToCalibrateOn) {
  for (const std::string& text : {std::string(), std::string(" \n\n\t\n")}) {
    EXPECT_THAT(std::string(Read(text).status().message()),
                HasSubstr("holds no text to calibrate on"));
  }
  EXPECT_THAT(std::string(Read("fine\n\xff\n").status().message()),
              HasSubstr(folder_.File("text")));
}

}  // namespace
}  // namespace h2o

// Calibrations are written, read and refused by name.
#include "model/kv_calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/json_file.h"
#include "tests/model/sample_calibration.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class KvCalibrationTest : public ::testing::Test {
 protected:
  std::string Write(const SampleCalibration& sample) const {
    const std::string path = directory_.File("kv-codes.safetensors");
    const absl::Status status = WriteKvCalibration(sample.View(), path);
    EXPECT_TRUE(status.ok()) << status;
    return path;
  }
  // What opening `sample` says, for the model of `reader`.
  absl::Status Refusal(
      const SampleCalibration& sample,
      const SampleCalibration& reader = SampleCalibration()) const {
    return KvCalibration::Open(Write(sample), reader.model).status();
  }
  // Writes a sample, changes the file's bytes, and opens it.
  absl::Status RefusalOf(
      const std::function<void(std::string* bytes)>& change) const {
    std::string bytes = ReadWholeFile(Write(SampleCalibration())).value();
    change(&bytes);
    return KvCalibration::Open(directory_.Write("bad.safetensors", bytes),
                               SampleCalibration().model)
        .status();
  }

  TempDirectory directory_;
};

void Replace(const std::string& from, const std::string& to,
             std::string* text) {
  const size_t at = text->find(from);
  ASSERT_NE(at, std::string::npos) << from;
  ASSERT_EQ(from.size(), to.size());
  text->replace(at, from.size(), to);
}

TEST_F(KvCalibrationTest, IsReadAsItWasWritten) {
  const SampleCalibration sample;
  const auto read = KvCalibration::Open(Write(sample), sample.model);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ((*read)->model(), sample.model);
  EXPECT_EQ((*read)->origin(), sample.origin);
  const KvCalibrationView view = (*read)->view(), expected = sample.View();
  EXPECT_EQ(view.need, expected.need);
  for (const auto vectors :
       {&KvCalibrationView::keys, &KvCalibrationView::values}) {
    EXPECT_EQ((view.*vectors).mean, (expected.*vectors).mean);
    EXPECT_EQ((view.*vectors).forward, (expected.*vectors).forward);
    EXPECT_EQ((view.*vectors).inverse, (expected.*vectors).inverse);
    EXPECT_EQ((view.*vectors).gain, (expected.*vectors).gain);
    EXPECT_EQ((view.*vectors).weight, (expected.*vectors).weight);
    EXPECT_EQ((view.*vectors).bits, (expected.*vectors).bits);
    EXPECT_EQ((view.*vectors).words, (expected.*vectors).words);
  }
}

TEST_F(KvCalibrationTest, GivesEachHeadItsOwn) {
  const SampleCalibration sample;
  const auto read = KvCalibration::Open(Write(sample), sample.model);
  ASSERT_TRUE(read.ok()) << read.status();
  const VectorCalibration keys = (*read)->Keys(1, 2);  // the sixth head of 8
  EXPECT_EQ(keys.mean.size(), 8U);
  EXPECT_EQ(keys.mean[0], -40);
  EXPECT_EQ(keys.gain[7], 1 + 47.0F / 1024);
  EXPECT_EQ(keys.forward.size(), 64U);
  EXPECT_EQ(keys.forward[9], 0.5F);
  EXPECT_THAT(keys.words, ElementsAre(2));
  const VectorCalibration values = (*read)->Values(0, 0);
  EXPECT_EQ(values.inverse[9], 4);
  EXPECT_THAT(values.bits, ElementsAre(8, 7, 6, 5, 0, 0, 0, 0));
  EXPECT_THAT(values.words, ElementsAre(1));
}

TEST_F(KvCalibrationTest, IsTheFormatToTheByte) {
  const SampleCalibration sample(1, 1, 8);
  const std::string bytes = ReadWholeFile(Write(sample)).value();
  const std::string header =
      R"({"__metadata__":{"version":"1","fingerprint":"0123456789abcdef",)"
      R"("d":"8","bits":"1.5","exact":"4","tokens":"8192",)"
      R"("text":"heldout.txt","key_weight":"2","loss":"0.0125"},)"
      R"("key.mean":{"dtype":"F32","shape":[1,1,8],"data_offsets":[0,32]},)"
      R"("key.forward":{"dtype":"F32","shape":[1,1,8,8],)"
      R"("data_offsets":[32,288]},)"
      R"("key.inverse":{"dtype":"F32","shape":[1,1,8,8],)"
      R"("data_offsets":[288,544]},)"
      R"("key.gain":{"dtype":"F32","shape":[1,1,8],"data_offsets":[544,576]},)";
  ASSERT_GT(bytes.size(), header.size());
  EXPECT_EQ(bytes.substr(8, header.size()), header);
  EXPECT_THAT(bytes, HasSubstr(R"("need":{"dtype":"F32","shape":[1,1],)"));
  EXPECT_THAT(bytes,
              HasSubstr(R"("value.bits":{"dtype":"U8","shape":[1,1,8],)"));
  EXPECT_THAT(bytes,
              HasSubstr(R"("value.words":{"dtype":"U8","shape":[1,1],)"));
  EXPECT_EQ(bytes.size() % 8, 22 % 8);  // the last: two times bits and words
}

TEST_F(KvCalibrationTest, NumpysFilesAreRead) {
  const KvCalibrationModel model{1, 2, 8, "0123456789abcdef"};
  for (const char* name : {"whole", "without_inverses"}) {
    const auto read = KvCalibration::Open(
        absl::StrCat("tests/fuzz/corpus/kv_calibration/", name), model);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_THAT((*read)->Keys(0, 1).bits, ElementsAre(6, 5, 4, 4, 3, 3, 2, 2));
    EXPECT_EQ((*read)->origin().text, "prose.txt");
  }
}

TEST_F(KvCalibrationTest, InversesMayBeLeftOut) {
  SampleCalibration sample;
  sample.keys.inverse.clear();
  const auto read = KvCalibration::Open(Write(sample), sample.model);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE((*read)->Keys(0, 0).inverse.empty());
  EXPECT_EQ((*read)->Values(0, 0).inverse.size(), 64U);
}

TEST_F(KvCalibrationTest, AnyFingerprintGoesWithDummyWeights) {
  SampleCalibration dummy;
  dummy.model.fingerprint.clear();
  EXPECT_TRUE(Refusal(SampleCalibration(), dummy).ok());
}

TEST_F(KvCalibrationTest, OfAnotherModelIsRefused) {
  const auto expect = [&](const SampleCalibration& sample,
                          const std::vector<std::string>& says) {
    const absl::Status status = Refusal(sample);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    for (const std::string& part : says) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
  };
  expect(SampleCalibration(3, 3, 8),
         {"another model", "3 layers of 3 heads of dimension 8",
          "2 layers of 3 heads of dimension 8"});
  expect(SampleCalibration(2, 4, 8), {"2 layers of 4 heads"});
  expect(SampleCalibration(2, 3, 16), {"dimension 16"});
  SampleCalibration other;
  other.model.fingerprint = "fedcba9876543210";
  expect(other, {"fedcba9876543210", "0123456789abcdef"});
}

TEST_F(KvCalibrationTest, OfAnotherVersionIsRefused) {
  const absl::Status status = RefusalOf([](std::string* bytes) {
    Replace(R"("version":"1")", R"("version":"2")", bytes);
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("is of version \"2\"; version 1 is read"));
}

TEST_F(KvCalibrationTest, MustBeThere) {
  EXPECT_TRUE(absl::IsNotFound(
      KvCalibration::Open(directory_.File("none"), {}).status()));
}

struct BrokenCase {
  const char* what;
  std::function<void(SampleCalibration*)> spoil;
  const char* says;
};

TEST_F(KvCalibrationTest, BrokenNumbersAreRefusedByName) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  // Head 4 is head 1 of layer 1; d is 8.
  const BrokenCase cases[] = {
      {"mean", [&](auto* c) { c->keys.mean[4 * 8 + 3] = nan; },
       "layer 1, head 1: key.mean[3] is nan; it must be finite"},
      {"forward", [&](auto* c) { c->values.forward[4 * 64 + 9] = infinity; },
       "layer 1, head 1: value.forward[9] is inf; it must be finite"},
      {"inverse", [&](auto* c) { c->keys.inverse[63] = -nan; },
       "layer 0, head 0: key.inverse[63] is"},
      {"gain", [&](auto* c) { c->keys.gain[0] = 0; },
       "key.gain[0] is 0; it must be finite and over 0"},
      {"weight", [&](auto* c) { c->values.weight[2] = -1; },
       "value.weight[2] is -1; it must be finite and at least 0"},
      {"need", [&](auto* c) { c->need[5] = nan; },
       "need[5] is nan; it must be finite and at least 0"},
      {"bits", [&](auto* c) { c->values.bits[4 * 8 + 2] = 9; },
       "layer 1, head 1: value.bits[2] is 9; at most 8 are right"},
      {"no words", [&](auto* c) { c->keys.words[4] = 0; },
       "layer 1, head 1: key.words is 0; it must be 1 to 2"},
      {"too many words", [&](auto* c) { c->keys.words[4] = 3; },
       "layer 1, head 1: key.words is 3; it must be 1 to 2"},
      {"words that disagree", [&](auto* c) { c->keys.bits[7] = 8; },
       "layer 0, head 0: key.bits and words disagree: 34 bits do not fit into "
       "1 words of 32"},
      {"another's inverse",
       [&](auto* c) { c->keys.inverse = c->values.inverse; },
       "layer 0, head 0: key.inverse is not forward's inverse"},
      {"bits asked for", [&](auto* c) { c->origin.bits = 9; },
       "bits is \"9\"; it must be a number from 0 to 8"},
      {"exact", [&](auto* c) { c->origin.exact = 5; },
       "exact is \"5\"; it must be a whole number up to 4"},
  };
  for (const BrokenCase& c : cases) {
    SampleCalibration sample;
    c.spoil(&sample);
    const absl::Status status = Refusal(sample);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << c.what << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says)) << c.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(directory_.path()));
  }
}

TEST_F(KvCalibrationTest, TornFilesAreRefused) {
  const size_t size = ReadWholeFile(Write(SampleCalibration())).value().size();
  for (const size_t left : {size - 1, size / 2, size_t{100}, size_t{3}}) {
    const absl::Status status =
        RefusalOf([left](std::string* bytes) { bytes->resize(left); });
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << left << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("torn"));
  }
}

TEST_F(KvCalibrationTest, WhatIsMissingOrOfAnotherKindIsNamed) {
  const auto expect = [&](const std::string& from, const std::string& to,
                          const std::string& says) {
    const absl::Status status =
        RefusalOf([&](std::string* bytes) { Replace(from, to, bytes); });
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  };
  expect("\"key.gain\"", "\"key.pain\"", "no tensor \"key.gain\"");
  expect(R"("value.words":{"dtype":"U8")", R"("value.words":{"dtype":"I8")",
         R"(value.words is "I8" [2, 3]; U8 [2, 3] is right)");
  expect(R"("need":{"dtype":"F32","shape":[2,3])",
         R"("need":{"dtype":"F32","shape":[3,2])",
         "need is \"F32\" [3, 2]; F32 [2, 3] is right");
  expect(R"("d":"8")", R"("d":"9")", "d is 9, key.bits has 8 channels");
  expect(R"("tokens":"8192")", R"("tokens":"8.92")", "tokens is \"8.92\"");
}

}  // namespace
}  // namespace h2o

// Checkpoints whole, in shards, torn and hostile.
#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "tests/model/safetensors_text.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string WithHeader(const std::string& header, const std::string& data) {
  return SafetensorsText(header, data);
}

std::string WithHeader(const json& header, const std::string& data) {
  return WithHeader(header.dump(), data);
}

json Tensor(const char* dtype, json shape, json begin, json end) {
  return {{"dtype", dtype},
          {"shape", std::move(shape)},
          {"data_offsets", {std::move(begin), std::move(end)}}};
}

std::string Bytes(int n) {
  std::string bytes;
  for (int i = 0; i < n; ++i) bytes += static_cast<char>(i * 37 + 11);
  return bytes;
}

// 24 bytes: two F32, four BF16, four F16.
json GoodHeader() {
  return {{"__metadata__", {{"format", "pt"}}},
          {"a.weight", Tensor("F32", {2}, 0, 8)},
          {"b.weight", Tensor("BF16", {2, 2}, 8, 16)},
          {"c.weight", Tensor("F16", {4, 1}, 16, 24)}};
}

void ExpectStatus(const absl::Status& status, absl::StatusCode code,
                  const std::vector<std::string>& fragments) {
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& fragment : fragments) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(fragment));
  }
}

class SafetensorsTest : public ::testing::Test {
 protected:
  void ExpectMalformed(const std::string& content,
                       const std::vector<std::string>& fragments) {
    const std::string path = directory_.Write("bad.safetensors", content);
    const auto file = SafetensorsFile::Open(path);
    ExpectStatus(file.status(), absl::StatusCode::kDataLoss, fragments);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(path));
  }
  void ExpectMalformed(const json& header,
                       const std::vector<std::string>& fragments) {
    ExpectMalformed(WithHeader(header, Bytes(24)), fragments);
  }

  TempDirectory directory_;
};

TEST_F(SafetensorsTest, ReadsTensorsWhereTheyLie) {
  const std::string data = Bytes(24);
  const auto file = SafetensorsFile::Open(
      directory_.Write("good.safetensors", WithHeader(GoodHeader(), data)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->Names(),
              ElementsAre("a.weight", "b.weight", "c.weight"));
  const auto b = (*file)->Find("b.weight");
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(b->dtype, DType::kBFloat16);
  EXPECT_THAT(b->shape, ElementsAre(2, 2));
  EXPECT_EQ(b->num_elements(), 4);
  EXPECT_EQ(b->name, "b.weight");
  EXPECT_EQ(std::memcmp(b->data, data.data() + 8, 8), 0);
  const auto c = (*file)->Find("c.weight");
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->dtype, DType::kFloat16);
  EXPECT_EQ(std::memcmp(c->data, data.data() + 16, 8), 0);
  EXPECT_TRUE((*file)->Contains("a.weight"));
  EXPECT_FALSE((*file)->Contains("a"));
  ExpectStatus((*file)->Find("d").status(), absl::StatusCode::kNotFound,
               {"no tensor \"d\"", "good.safetensors"});
}

TEST_F(SafetensorsTest, AllowsScalarsEmptyTensorsAndNoTensorAtAll) {
  const json header = {{"empty", Tensor("F32", {0, 5}, 4, 4)},
                       {"scalar", Tensor("F32", json::array(), 0, 4)}};
  const auto file = SafetensorsFile::Open(
      directory_.Write("f.safetensors", WithHeader(header, Bytes(4))));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Find("scalar")->num_elements(), 1);
  EXPECT_EQ((*file)->Find("empty")->num_elements(), 0);
  EXPECT_TRUE(
      SafetensorsFile::Open(
          directory_.Write("n.safetensors", WithHeader(std::string("{}"), "")))
          .ok());
}

TEST_F(SafetensorsTest, RefusesOtherDTypesOnlyWhenAskedForThem) {
  const json header = {{"i", Tensor("I64", {1}, 0, 8)},
                       {"new", Tensor("F2_NEW", {32}, 8, 16)},
                       {"f", Tensor("F32", {2}, 16, 24)}};
  const auto file = SafetensorsFile::Open(
      directory_.Write("f.safetensors", WithHeader(header, Bytes(24))));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->Find("f").ok());
  ExpectStatus((*file)->Find("i").status(),
               absl::StatusCode::kFailedPrecondition,
               {"\"i\"", "\"I64\"", "only F32, F16 and BF16"});
  ExpectStatus((*file)->Find("new").status(),
               absl::StatusCode::kFailedPrecondition, {"\"F2_NEW\""});
}

TEST_F(SafetensorsTest, RefusesTensorsThatAreNotAligned) {
  std::string header = json({{"f", Tensor("F32", {2}, 0, 8)}}).dump();
  while (header.size() % 4 != 1) header += ' ';
  uint64_t length = header.size();
  std::string content(8, '\0');
  std::memcpy(content.data(), &length, 8);
  const auto file = SafetensorsFile::Open(
      directory_.Write("f.safetensors", content + header + Bytes(8)));
  ASSERT_TRUE(file.ok()) << file.status();
  ExpectStatus((*file)->Find("f").status(),
               absl::StatusCode::kFailedPrecondition, {"aligned"});
}

TEST_F(SafetensorsTest, NoticesEveryTornFile) {
  const std::string good = WithHeader(GoodHeader(), Bytes(24));
  for (size_t size = 0; size < good.size(); ++size) {
    const auto file = SafetensorsFile::Open(
        directory_.Write("torn.safetensors", good.substr(0, size)));
    EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss) << size;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("torn"));
  }
  ExpectMalformed(good + "x", {"the tensors end at byte 24", "the file at 25"});
}

TEST_F(SafetensorsTest, RefusesBadHeaderLengths) {
  const auto with_length = [](uint64_t length) {
    std::string content(8, '\0');
    std::memcpy(content.data(), &length, 8);
    return content + "{}";
  };
  ExpectMalformed(with_length(3), {"torn", "header ends at byte 11"});
  ExpectMalformed(with_length(100'000'000), {"torn"});
  ExpectMalformed(with_length(100'000'001), {"at most 100000000"});
  ExpectMalformed(with_length(UINT64_MAX), {"18446744073709551615"});
  ExpectMalformed(with_length(INT64_MAX), {"9223372036854775807"});
  ExpectMalformed(with_length(0), {"not JSON"});
}

TEST_F(SafetensorsTest, RefusesHeadersThatAreNotWhatTheyShouldBe) {
  ExpectMalformed(WithHeader(std::string("{not json"), ""), {"not JSON"});
  ExpectMalformed(WithHeader(std::string("\xff\xff{}"), ""), {"not JSON"});
  ExpectMalformed(WithHeader(std::string("[]"), ""), {"a JSON object"});
  ExpectMalformed(WithHeader(R"({"a":)" + std::string(100000, '[') +
                                 std::string(100000, ']') + "}",
                             ""),
                  {"nested"});
  // Of a tensor that is there twice the last counts; the other leaves a hole.
  const std::string twice =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})";
  ExpectMalformed(WithHeader(twice, Bytes(16)), {"\"a\"", "a hole"});
  ExpectMalformed(json({{"a", 3}}), {"\"a\"", "its entry is 3"});
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    json header = GoodHeader();
    header["b.weight"].erase(key);
    ExpectMalformed(header, {"\"b.weight\"", key, "is missing"});
    for (const json& value : {json(nullptr), json(1), json({{"x", 1}})}) {
      header["b.weight"][key] = value;
      ExpectMalformed(header, {"\"b.weight\"", key});
    }
  }
}

TEST_F(SafetensorsTest, RefusesBadShapes) {
  const auto with_shape = [](json shape) {
    json header = GoodHeader();
    header["a.weight"]["shape"] = std::move(shape);
    return header;
  };
  ExpectMalformed(with_shape({3}), {"it has 8 bytes", "F32 [3] takes 12"});
  ExpectMalformed(with_shape({2, 2}), {"F32 [2, 2] takes 16"});
  ExpectMalformed(with_shape({-2}), {"\"shape\" holds -2"});
  ExpectMalformed(with_shape({2.0}), {"\"shape\" holds 2.0"});
  ExpectMalformed(with_shape({"2"}), {"\"shape\" holds \"2\""});
  ExpectMalformed(with_shape({UINT64_MAX}), {"\"shape\" holds 184467"});
  ExpectMalformed(with_shape({INT64_MAX}), {"overflows"});
  // 2^64 elements wrap around to 0, 2^62 + ... to a plausible number.
  ExpectMalformed(with_shape({1LL << 32, 1LL << 32}), {"overflows"});
  ExpectMalformed(with_shape({1LL << 31, 1LL << 31, 4, 2}), {"overflows"});
  ExpectMalformed(with_shape({0, 1LL << 40, 1LL << 40}), {"overflows"});
  ExpectMalformed(with_shape(json(1000, 1)), {"has 1000 dimensions"});
}

TEST_F(SafetensorsTest, RefusesBadOffsets) {
  const auto with_offsets = [](json begin, json end) {
    json header = GoodHeader();
    header["b.weight"]["data_offsets"] = {std::move(begin), std::move(end)};
    return header;
  };
  ExpectMalformed(with_offsets(16, 8), {"\"b.weight\"", "is [16, 8]"});
  ExpectMalformed(with_offsets(-8, 0), {"is [-8, 0]"});
  ExpectMalformed(with_offsets(8.0, 16), {"is [8.0, 16]"});
  ExpectMalformed(with_offsets(8, "16"), {"is [8, \"16\"]"});
  ExpectMalformed(with_offsets(UINT64_MAX - 7, 0),
                  {"is [18446744073709551608"});
  ExpectMalformed(with_offsets(UINT64_MAX - 15, UINT64_MAX - 7),
                  {"is [18446744073709551600"});
  ExpectMalformed(with_offsets(24, 32), {"ends at byte 32", "file at 24"});
  ExpectMalformed(with_offsets(INT64_MAX - 8, INT64_MAX), {"torn"});
  ExpectMalformed(with_offsets(0, 8), {"overlap"});
  ExpectMalformed(with_offsets(4, 12), {"overlap"});
  ExpectMalformed(with_offsets(9, 17), {"hole"});
  json header = GoodHeader();
  header["b.weight"]["data_offsets"] = {8, 16, 24};
  ExpectMalformed(header, {"an array of 3 values"});
  header.erase("b.weight");
  ExpectMalformed(header, {"\"c.weight\" begins at byte 16", "hole"});
}

TEST_F(SafetensorsTest, RefusesWhatIsNoFile) {
  ExpectStatus(SafetensorsFile::Open(directory_.File("none")).status(),
               absl::StatusCode::kNotFound, {directory_.File("none")});
  ExpectStatus(SafetensorsFile::Open(directory_.path()).status(),
               absl::StatusCode::kDataLoss, {"not a plain file"});
  const std::string pipe = directory_.File("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  ExpectStatus(SafetensorsFile::Open(pipe).status(),
               absl::StatusCode::kDataLoss, {"not a plain file"});
}

// A file that was changed anywhere is refused or read within its bounds; the
// sanitizers see the rest.
TEST_F(SafetensorsTest, SurvivesRandomMutations) {
  std::mt19937 random(20240607);
  const auto below = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  const std::string good = WithHeader(GoodHeader(), Bytes(24));
  const std::string words[] = {"-1",
                               "9223372036854775807",
                               "18446744073709551615",
                               "1e308",
                               "null",
                               "[",
                               "{",
                               "]",
                               "}",
                               "\"",
                               ",",
                               ":",
                               "\\u0000",
                               "\"F64\"",
                               "4294967296",
                               "\xff",
                               "0",
                               "true",
                               "__metadata__"};
  int num_opened = 0;
  for (int round = 0; round < 2500; ++round) {
    std::string content = good;
    const size_t num_changes = 1 + below(4);
    for (size_t i = 0; i < num_changes && !content.empty(); ++i) {
      const size_t at = below(content.size());
      switch (below(6)) {
        case 0:
          content[at] = static_cast<char>(below(256));
          break;
        case 1:
          content[at] ^= static_cast<char>(1 << below(8));
          break;
        case 2:
          content.erase(at, 1 + below(8));
          break;
        case 3:
          content.insert(at, words[below(std::size(words))]);
          break;
        case 4:
          content.resize(at);
          break;
        default: {  // a digit, where most is decided
          const size_t digit = content.find_first_of("0123456789", at);
          if (digit != std::string::npos) {
            content[digit] = static_cast<char>('0' + below(10));
          }
        }
      }
    }
    // Half of the time the length is right again, so that the header is read.
    const size_t data = content.rfind(Bytes(24));
    if (below(2) == 0 && data != std::string::npos && data >= 8) {
      const uint64_t length = data - 8;
      std::memcpy(content.data(), &length, 8);
    }
    const auto file =
        SafetensorsFile::Open(directory_.Write("m.safetensors", content));
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss);
      EXPECT_LT(file.status().message().size(), 1000u);
      continue;
    }
    ++num_opened;
    for (const std::string& name : (*file)->Names()) {
      const auto tensor = (*file)->Find(name);
      if (!tensor.ok()) continue;
      float sum = 0;
      for (int64_t i = 0; i < tensor->num_elements(); ++i) {
        sum += LoadElement(tensor->data, tensor->dtype, i);
      }
      EXPECT_TRUE(sum == sum || sum != sum);
    }
  }
  EXPECT_GT(num_opened, 50);  // data bytes and names may change
}

// ---- Checkpoint

TEST(CheckpointTest, ReadsTheModelThatShips) {
  const auto checkpoint = Checkpoint::Open("models/opt-demo", "model.");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const char* name :
       {"model.decoder.layers.5.fc1.weight", "decoder.layers.5.fc1.weight"}) {
    const auto tensor = (*checkpoint)->Find(name);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_THAT(tensor->shape, ElementsAre(1536, 384));
    EXPECT_EQ(tensor->dtype, DType::kFloat16);
    EXPECT_EQ(tensor->name, "model.decoder.layers.5.fc1.weight");
  }
  int64_t num_parameters = 0;
  for (const std::string& name : (*checkpoint)->Names()) {
    num_parameters += (*checkpoint)->Find(name)->num_elements();
  }
  EXPECT_EQ(num_parameters, 14580480);
  EXPECT_TRUE((*checkpoint)->Contains("decoder.embed_tokens.weight"));
  EXPECT_FALSE((*checkpoint)->Contains("lm_head.weight"));
  ExpectStatus((*checkpoint)->Find("lm_head.weight").status(),
               absl::StatusCode::kNotFound, {"\"lm_head.weight\""});
}

class CheckpointFilesTest : public ::testing::Test {
 protected:
  // A file with one float32 tensor of `data`.
  static std::string OneTensor(const std::string& name,
                               const std::string& data) {
    return WithHeader(
        json({{name, Tensor("F32", {data.size() / 4}, 0, data.size())}}), data);
  }
  void WriteIndex(const json& weight_map) {
    directory_.Write("model.safetensors.index.json",
                     json({{"weight_map", weight_map}}).dump());
  }
  void ExpectOpenFails(absl::StatusCode code,
                       const std::vector<std::string>& fragments) {
    ExpectStatus(Checkpoint::Open(directory_.path(), "model.").status(), code,
                 fragments);
  }

  TempDirectory directory_;
};

TEST_F(CheckpointFilesTest, FindsNamesWithAndWithoutModel) {
  directory_.Write("model.safetensors",
                   OneTensor("decoder.final_layer_norm.bias", Bytes(8)));
  const auto checkpoint = Checkpoint::Open(directory_.path(), "model.");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->Find("model.decoder.final_layer_norm.bias").ok());
  EXPECT_TRUE((*checkpoint)->Find("decoder.final_layer_norm.bias").ok());
  EXPECT_FALSE((*checkpoint)->Find("model.model.decoder.x").ok());
}

TEST_F(CheckpointFilesTest, RefusesOneTensorUnderTwoNames) {
  directory_.Write(
      "model.safetensors",
      WithHeader(json({{"decoder.x", Tensor("F32", {1}, 0, 4)},
                       {"model.decoder.x", Tensor("F32", {1}, 4, 8)}}),
                 Bytes(8)));
  ExpectOpenFails(absl::StatusCode::kDataLoss,
                  {"\"decoder.x\"", "\"model.decoder.x\"", "both"});
}

TEST_F(CheckpointFilesTest, SaysWhatIsMissing) {
  ExpectStatus(Checkpoint::Open(directory_.File("none"), "model.").status(),
               absl::StatusCode::kNotFound, {directory_.File("none")});
  ExpectOpenFails(absl::StatusCode::kNotFound,
                  {"model.safetensors.index.json"});
  directory_.Write("pytorch_model-00001-of-00002.bin", "PK");
  ExpectOpenFails(
      absl::StatusCode::kFailedPrecondition,
      {"pytorch_model-00001-of-00002.bin", "tools/convert_checkpoint.py"});
}

TEST_F(CheckpointFilesTest, RefusesIndexesThatDoNotMatchTheirShards) {
  directory_.Write("one.safetensors", OneTensor("a", Bytes(8)));
  WriteIndex({{"a", "one.safetensors"}});
  EXPECT_TRUE(Checkpoint::Open(directory_.path(), "model.").ok());
  WriteIndex({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  ExpectOpenFails(absl::StatusCode::kNotFound, {"two.safetensors", "\"b\""});
  WriteIndex({{"a", "one.safetensors"}, {"b", "one.safetensors"}});
  ExpectOpenFails(absl::StatusCode::kDataLoss,
                  {"one.safetensors has no tensor \"b\""});
  directory_.Write("two.safetensors", OneTensor("b", Bytes(8)).substr(0, 60));
  WriteIndex({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  ExpectOpenFails(absl::StatusCode::kDataLoss, {"two.safetensors", "torn"});
  WriteIndex({{"a", "one.safetensors"}, {"model.a", "one.safetensors"}});
  ExpectOpenFails(absl::StatusCode::kDataLoss, {"\"model.a\""});
  for (const json& shard :
       {json("../one.safetensors"), json("/etc/passwd"), json(""), json(3),
        json("a\\b"), json(std::string("one.safetensors\0x", 17))}) {
    WriteIndex({{"a", shard}});
    ExpectOpenFails(absl::StatusCode::kDataLoss,
                    {"\"a\"", "the name of a file beside the index"});
  }
  for (const char* index : {"", "{", "[]", "{}", R"({"weight_map": []})",
                            R"({"weight_map": {}})", R"({"weight_map": 3})"}) {
    directory_.Write("model.safetensors.index.json", index);
    ExpectOpenFails(absl::StatusCode::kDataLoss,
                    {"model.safetensors.index.json"});
  }
}

}  // namespace
}  // namespace h2o

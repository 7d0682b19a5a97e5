// "quantization_config" of config.json, and the tensors that it stands for.
#include "model/quantization_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/weight_codes.h"
#include "model/coded_tensors.h"
#include "model/quantization_json.h"

namespace h2o {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// As the compressed-tensors package writes it, for int4 with zero points.
json Packed() {
  return json::parse(R"({
    "config_groups": {"group_0": {
      "targets": ["Linear"],
      "weights": {"num_bits": 4, "type": "int", "symmetric": false,
                  "group_size": 64, "strategy": "group", "dynamic": false,
                  "actorder": null, "block_structure": null,
                  "observer": "minmax", "observer_kwargs": {}},
      "input_activations": null, "output_activations": null,
      "format": "pack-quantized"}},
    "format": "pack-quantized",
    "global_compression_ratio": null,
    "ignore": ["lm_head", "re:.*project_in"],
    "kv_cache_scheme": null,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
    "sparsity_config": {}, "transform_config": {}, "version": "0.20.1"})");
}

json Fp8() {
  json value = Packed();
  value["format"] = "float-quantized";
  json& group = value["config_groups"]["group_0"];
  group["format"] = "float-quantized";
  group["weights"] = {
      {"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}};
  return value;
}

json Gptq() {
  return {{"quant_method", "gptq"}, {"bits", 4},       {"group_size", 128},
          {"desc_act", false},      {"sym", true},     {"damp_percent", 0.01},
          {"static_groups", false}, {"lm_head", false}};
}

// `value` with `patch` at `place`.
json With(json value, const std::string& place, const json& patch) {
  value[json::json_pointer(place)] = patch;
  return value;
}

QuantizationConfig Read(const json& value) {
  const auto config = ReadQuantizationConfig(value, "FILE");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(QuantizationConfig());
}

void ExpectRefused(const json& value,
                   const std::vector<std::string>& fragments) {
  const auto config = ReadQuantizationConfig(value, "FILE");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument)
      << config.status() << value;
  const std::string message(config.status().message());
  EXPECT_THAT(message, ::testing::StartsWith("FILE"));
  for (const std::string& fragment : fragments) {
    EXPECT_THAT(message, HasSubstr(fragment));
  }
}

constexpr char kWeights[] = "/config_groups/group_0/weights";
constexpr char kInputs[] = "/config_groups/group_0/input_activations";

TEST(QuantizationConfigTest, ReadsCompressedTensors) {
  const QuantizationConfig config = Read(Packed());
  EXPECT_EQ(config.layout, CodeLayout::kPacked);
  EXPECT_EQ(config.coding, (WeightCoding{WeightFormat::kInt4, 64}));
  EXPECT_FALSE(config.symmetric);
  EXPECT_FALSE(config.rounds_inputs);
  EXPECT_THAT(config.ignored, ElementsAre("lm_head", "re:.*project_in"));

  const QuantizationConfig fp8 = Read(Fp8());
  EXPECT_EQ(fp8.layout, CodeLayout::kBytes);
  EXPECT_EQ(fp8.coding.format, WeightFormat::kFp8);
  const json token = {{"num_bits", 8},
                      {"type", "float"},
                      {"strategy", "token"},
                      {"dynamic", true}};
  EXPECT_TRUE(Read(With(Fp8(), kInputs, token)).rounds_inputs);

  json int8 = Fp8();
  int8["config_groups"]["group_0"].erase("format");
  int8[json::json_pointer(kWeights)]["type"] = "int";
  for (const char* format :
       {"int-quantized", "naive-quantized", "pack-quantized"}) {
    EXPECT_EQ(Read(With(int8, "/format", format)).coding.format,
              WeightFormat::kInt8);
  }
}

TEST(QuantizationConfigTest, ReadsWhatChangesNothing) {
  json value = Packed();
  json& weights = value[json::json_pointer(kWeights)];
  weights.erase("strategy");  // a group_size stands for groups
  weights["actorder"] = "static";
  value["sparsity_config"] = {{"format", "dense"}};
  EXPECT_EQ(Read(value), Read(Packed()));
}

TEST(QuantizationConfigTest, ReadsGptq) {
  const QuantizationConfig config = Read(Gptq());
  EXPECT_EQ(config.layout, CodeLayout::kGptq);
  EXPECT_EQ(config.coding, (WeightCoding{WeightFormat::kInt4, 128}));
  EXPECT_TRUE(config.symmetric);
  EXPECT_TRUE(config.zeros_less_one);
  const json second = With(Gptq(), "/checkpoint_format", "gptq_v2");
  EXPECT_FALSE(Read(second).zeros_less_one);
}

TEST(QuantizationConfigTest, RefusesOthersByName) {
  ExpectRefused("int4", {"must be an object"});
  ExpectRefused(json::object(), {"\"quant_method\" is missing"});
  ExpectRefused({{"quant_method", "awq"}},
                {"\"awq\"", "\"compressed-tensors\" or \"gptq\""});
}

TEST(QuantizationConfigTest, RefusesSchemesOfCompressedTensors) {
  const std::string weights = kWeights;
  struct Case {
    std::string place;
    json patch;
    std::vector<std::string> fragments;
  };
  const json static_inputs = {
      {"num_bits", 8}, {"type", "float"}, {"strategy", "tensor"}};
  const json of_4_bits = {
      {"num_bits", 4}, {"strategy", "token"}, {"dynamic", true}};
  const json standing = {{"num_bits", 8}, {"strategy", "token"}};
  const Case cases[] = {
      {"/format", "nvfp4-pack-quantized", {"\"format\"", "pack-quantized"}},
      {"/format", "int-quantized", {"group_0", "\"format\""}},
      {"/kv_cache_scheme", {{"num_bits", 8}}, {"\"kv_cache_scheme\""}},
      {"/transform_config", {{"a", 1}}, {"\"transform_config\""}},
      {"/sparsity_config", {{"format", "sparse-24"}}, {"\"sparsity_config\""}},
      {"/ignore", "lm_head", {"\"ignore\" is \"lm_head\"", "list of strings"}},
      {"/config_groups/group_1",
       json::object(),
       {"has 2 groups", "must have 1"}},
      {"/config_groups", json::object(), {"has 0 groups"}},
      {"/config_groups", {{"W4A16", {"Linear"}}}, {"\"W4A16\"", "an object"}},
      {"/config_groups/group_0/output_activations",
       {{"num_bits", 8}},
       {"group_0: \"output_activations\""}},
      {weights, nullptr, {"\"weights\" is missing"}},
      {weights + "/num_bits", 3, {"weights: \"num_bits\" is 3", "from 4 to 8"}},
      {weights + "/num_bits", 6, {"\"num_bits\" is 6", "4 or 8"}},
      {weights + "/type", "float", {"\"type\" is \"float\"", "\"int\""}},
      {weights + "/group_size", 32, {"\"group_size\" is 32", "64 or 128"}},
      {weights + "/group_size", nullptr, {"\"group_size\" is missing"}},
      {weights + "/strategy",
       "tensor",
       {"\"strategy\" is \"tensor\"", "group"}},
      {weights + "/strategy", "block", {"\"strategy\" is \"block\"", "group"}},
      {weights + "/actorder", "group", {"\"actorder\" is \"group\""}},
      {weights + "/actorder", true, {"\"actorder\" is true"}},
      {weights + "/dynamic", true, {"\"dynamic\" is true"}},
      {kInputs,
       static_inputs,
       {"input_activations: \"strategy\"", "\"token\""}},
      {kInputs, of_4_bits, {"input_activations: \"num_bits\" is 4"}},
      {kInputs, standing, {"input_activations: \"dynamic\" is false"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.place + " " + c.patch.dump());
    ExpectRefused(With(Packed(), c.place, c.patch), c.fragments);
  }
  ExpectRefused(With(Fp8(), weights + "/strategy", "tensor"),
                {"\"strategy\" is \"tensor\"", "\"channel\""});
  ExpectRefused(With(Fp8(), weights + "/strategy", nullptr),
                {"\"strategy\" is missing", "\"tensor\""});
  ExpectRefused(With(Fp8(), weights + "/symmetric", false), {"\"symmetric\""});
  ExpectRefused(With(Fp8(), weights + "/type", "int"),
                {"\"float-quantized\"", "int8"});
}

TEST(QuantizationConfigTest, RefusesKindsOfGptq) {
  ExpectRefused(With(Gptq(), "/bits", 3), {"\"bits\" is 3"});
  ExpectRefused(With(Gptq(), "/group_size", -1), {"\"group_size\" is -1"});
  ExpectRefused(With(Gptq(), "/group_size", 32), {"\"group_size\" is 32"});
  ExpectRefused(With(Gptq(), "/desc_act", true), {"\"desc_act\" is true"});
  ExpectRefused(With(Gptq(), "/lm_head", true), {"\"lm_head\" is true"});
  ExpectRefused(With(Gptq(), "/dynamic", {{"-:x", 1}}), {"\"dynamic\""});
  ExpectRefused(With(Gptq(), "/pack_dtype", "int8"), {"\"pack_dtype\""});
  ExpectRefused(With(Gptq(), "/checkpoint_format", "marlin"),
                {"\"checkpoint_format\"", "\"gptq\" or \"gptq_v2\""});
}

TEST(QuantizationConfigTest, WritesWhatItReads) {
  QuantizationConfig config = {.layout = CodeLayout::kPacked,
                               .coding = {WeightFormat::kInt4, 64},
                               .symmetric = false,
                               .ignored = {"lm_head"}};
  const auto expect_same = [&] {
    const json value = json::parse(WriteQuantizationConfig(config).dump());
    EXPECT_EQ(Read(value), config) << value;
  };
  expect_same();
  EXPECT_EQ(WriteQuantizationConfig(config)["dequantize"], true);
  config.symmetric = true;
  EXPECT_FALSE(WriteQuantizationConfig(config).contains("dequantize"));
  config.coding = {WeightFormat::kInt4, 128};
  expect_same();
  config.coding = {WeightFormat::kInt8};
  expect_same();
  config.layout = CodeLayout::kBytes;
  expect_same();
  config.coding = {WeightFormat::kFp8};
  expect_same();
  config.rounds_inputs = true;
  config.ignored.clear();
  expect_same();
}

// ---- Tensors

std::vector<std::string> TextsOf(const CodedTensors& tensors) {
  std::vector<std::string> texts;
  for (const TensorForm& form : tensors.All()) {
    texts.push_back(absl::StrCat(form.name, " ", std::string(form.dtype), " ",
                                 absl::StrJoin(form.shape, " ")));
  }
  return texts;
}

TEST(CodedTensorsTest, NamesAndShapes) {
  QuantizationConfig config = {.layout = CodeLayout::kPacked,
                               .coding = {WeightFormat::kInt4, 64},
                               .symmetric = false};
  const auto texts = [&] {
    return TextsOf(CodedTensorsOf(config, "a.fc1.weight", 12, 192));
  };
  EXPECT_THAT(texts(), ElementsAre("a.fc1.weight_packed I32 12 24",
                                   "a.fc1.weight_scale BF16 12 3",
                                   "a.fc1.weight_zero_point I32 2 3",
                                   "a.fc1.weight_shape I64 2"));
  config.symmetric = true;
  config.coding = {WeightFormat::kInt8};
  EXPECT_THAT(texts(), ElementsAre("a.fc1.weight_packed I32 12 48",
                                   "a.fc1.weight_scale F32 12 1",
                                   "a.fc1.weight_shape I64 2"));
  config.layout = CodeLayout::kBytes;
  EXPECT_THAT(texts(), ElementsAre("a.fc1.weight I8 12 192",
                                   "a.fc1.weight_scale F32 12 1"));
  config.coding = {WeightFormat::kFp8};
  EXPECT_THAT(texts(), ElementsAre("a.fc1.weight F8_E4M3 12 192",
                                   "a.fc1.weight_scale F32 12 1"));
  config.layout = CodeLayout::kGptq;
  config.coding = {WeightFormat::kInt4, 128};
  EXPECT_THAT(texts(),
              ElementsAre("a.fc1.qweight I32 24 12", "a.fc1.scales F16 2 12",
                          "a.fc1.qzeros I32 2 2", "a.fc1.g_idx I32 192"));
}

// Words and bytes of the three tests were made by pack_to_int32 of
// compressed-tensors 0.20.1, whose codes and zero points have a sign: ours less
// 8.
TEST(CodedTensorsTest, RowsOfInt4HaveOurBytes) {
  const std::vector<uint32_t> words = {0x76543210, 0xfedcba98};
  std::vector<float> row(16);
  const GroupScale scale = {ToBFloat16(1), 8};
  DecodeInt4Row(reinterpret_cast<const std::byte*>(words.data()), 64, &scale,
                absl::MakeSpan(row));
  for (int i = 0; i < 16; ++i) EXPECT_EQ(row[i], i - 8);
}

TEST(CodedTensorsTest, ZeroPointsLieInWordsOf8Outputs) {
  constexpr int64_t kOutputs = 9, kGroups = 2;
  std::vector<uint32_t> words(2 * kGroups);
  const auto zero_of = [](int64_t r, int64_t g) {
    return static_cast<int>((5 * r + 3 * g) % 16);
  };
  for (int64_t r = 0; r < kOutputs; ++r) {
    for (int64_t g = 0; g < kGroups; ++g) {
      PutPackedZero(words.data(), kGroups, r, g, zero_of(r, g));
    }
  }
  EXPECT_THAT(words, ElementsAre(0x3e94fa50, 0x61c72d83, 0x8, 0xb));
  for (int64_t r = 0; r < kOutputs; ++r) {
    for (int64_t g = 0; g < kGroups; ++g) {
      EXPECT_EQ(PackedZero(words.data(), kGroups, r, g), zero_of(r, g));
    }
  }
}

TEST(CodedTensorsTest, Int8HasItsSignFlipped) {
  const std::vector<std::byte> codes = {std::byte{0}, std::byte{127},
                                        std::byte{0x81}};
  std::vector<std::byte> packed(3);
  FlipPackedInt8(codes.data(), 3, packed.data());
  EXPECT_THAT(packed,
              ElementsAre(std::byte{128}, std::byte{255}, std::byte{1}));
}

}  // namespace
}  // namespace h2o

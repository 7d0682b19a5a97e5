// Checkpoints of codes: what is in them, in how many files, and what is
// refused.
#include "quantize/coded_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "model/coded_tensors.h"
#include "quantize/quantize.h"
#include "quantize/rounder.h"
#include "tests/quantize/tiny_checkpoint.h"

namespace h2o {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr WeightCoding kInt4 = {WeightFormat::kInt4, 64};
constexpr WeightCoding kInt8 = {WeightFormat::kInt8};
constexpr WeightCoding kFp8 = {WeightFormat::kFp8};

const char* const kFc2 = "model.decoder.layers.1.fc2.weight";

// The codes of layer 1's fc2 that plain rounding makes.
CodedMatrix Fc2Of(const SourceModel& source, const WeightCoding& coding) {
  const auto rounder = NewPlainRounder(source, coding, 2).value();
  return rounder->Round(1, LayerProduct::kFc2).value();
}

// A tensor of a file, as bytes, and its entry.
struct Found {
  HeaderEntry entry;
  std::vector<uint8_t> bytes;
};
Found FindIn(const std::string& path, const std::string& name) {
  const auto file = SafetensorsFile::Open(path).value();
  Found found = {file->entries().at(name), {}};
  std::ifstream stream(path, std::ios::binary);
  stream.seekg(file->data_offset() + found.entry.begin_bytes);
  found.bytes.resize(found.entry.end_bytes - found.entry.begin_bytes);
  stream.read(reinterpret_cast<char*>(found.bytes.data()),
              static_cast<std::streamsize>(found.bytes.size()));
  return found;
}

class CodedCheckpoints : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteTinyCheckpoint(model_, TinyOptConfig());
    model_.Write("vocab.json", "{}");
    model_.Write("pytorch_model.bin", "weights once more");
  }
  absl::Status Run(const WeightCoding& coding,
                   const std::string& out = "out") const {
    QuantizeOptions options;
    options.model = model_.path();
    options.out = outputs_.File(out);
    options.coding = coding;
    options.num_threads = 2;
    return Quantize(options).status();
  }
  size_t NumOutputs() const {
    return std::distance(fs::directory_iterator(outputs_.path()), {});
  }
  std::string Message(const WeightCoding& coding) const {
    const absl::Status status = Run(coding);
    EXPECT_EQ(NumOutputs(), 0) << "nothing is left";
    return std::string(status.message());
  }

  const TempDirectory model_, outputs_;
};

TEST_F(CodedCheckpoints, HoldTheCodesThatLoadingMakes) {
  ASSERT_TRUE(Run(kFp8, "fp8").ok());
  ASSERT_TRUE(Run(kInt8, "int8").ok());
  const std::string fc2 = kFc2;
  const std::string of_fp8 = outputs_.File("fp8/model.safetensors");
  const std::string of_int8 = outputs_.File("int8/model.safetensors");
  const SourceModel source = OpenSourceModel(model_.path(), kFp8).value();
  const CodedMatrix fp8 = Fc2Of(source, kFp8), int8 = Fc2Of(source, kInt8);

  const Found bytes = FindIn(of_fp8, fc2);
  EXPECT_EQ(bytes.entry.dtype, "F8_E4M3");
  EXPECT_EQ(bytes.entry.shape, (std::vector<int64_t>{128, 192}));
  EXPECT_EQ(std::memcmp(bytes.bytes.data(), fp8.codes.data(), 128 * 192), 0);

  const Found packed = FindIn(of_int8, fc2 + "_packed");
  EXPECT_EQ(packed.entry.shape, (std::vector<int64_t>{128, 192 / 4}));
  for (int64_t i = 0; i < 128 * 192; ++i) {
    ASSERT_EQ(packed.bytes[i], static_cast<uint8_t>(int8.codes[i]) ^ 0x80);
  }
  for (const auto& [file, codes] :
       {std::pair(of_fp8, &fp8), std::pair(of_int8, &int8)}) {
    const Found scales = FindIn(file, fc2 + "_scale");
    EXPECT_EQ(scales.entry.shape, (std::vector<int64_t>{128, 1}));
    EXPECT_EQ(std::memcmp(scales.bytes.data(), codes->scales.data(), 128 * 4),
              0);
  }
}

TEST_F(CodedCheckpoints, PackInt4WithScalesAndZeroPoints) {
  ASSERT_TRUE(Run(kInt4).ok());
  const std::string file = outputs_.File("out/model.safetensors");
  const std::string fc2 = kFc2;
  const SourceModel source = OpenSourceModel(model_.path(), kInt4).value();
  const CodedMatrix codes = Fc2Of(source, kInt4);
  const Found packed = FindIn(file, fc2 + "_packed");
  EXPECT_EQ(packed.entry.shape, (std::vector<int64_t>{128, 192 / 8}));
  EXPECT_EQ(
      std::memcmp(packed.bytes.data(), codes.codes.data(), codes.codes.size()),
      0);
  const Found scales = FindIn(file, fc2 + "_scale");
  const Found zeros = FindIn(file, fc2 + "_zero_point");
  EXPECT_EQ(scales.entry.dtype, "BF16");
  EXPECT_EQ(scales.entry.shape, (std::vector<int64_t>{128, 3}));
  EXPECT_EQ(zeros.entry.shape, (std::vector<int64_t>{128 / 8, 3}));
  std::vector<uint16_t> scale(128 * 3);
  std::vector<uint32_t> words(16 * 3);
  std::memcpy(scale.data(), scales.bytes.data(), scales.bytes.size());
  std::memcpy(words.data(), zeros.bytes.data(), zeros.bytes.size());
  for (int64_t r = 0; r < 128; ++r) {
    for (int64_t g = 0; g < 3; ++g) {
      ASSERT_EQ(scale[r * 3 + g], codes.GroupScales(r)[g].scale);
      ASSERT_EQ(PackedZero(words.data(), 3, r, g),
                codes.GroupScales(r)[g].zero);
    }
  }
  int64_t shape[2];
  std::memcpy(shape, FindIn(file, fc2 + "_shape").bytes.data(), sizeof(shape));
  EXPECT_EQ(shape[0], 128);
  EXPECT_EQ(shape[1], 192);
}

TEST_F(CodedCheckpoints, KeepAllElseButOtherFilesOfWeights) {
  ASSERT_TRUE(Run(kInt4).ok());
  EXPECT_TRUE(fs::exists(outputs_.File("out/vocab.json")));
  EXPECT_FALSE(fs::exists(outputs_.File("out/pytorch_model.bin")));
  for (const char* name : {"model.decoder.layers.1.fc2.bias",
                           "model.decoder.embed_tokens.weight"}) {
    EXPECT_EQ(FindIn(outputs_.File("out/model.safetensors"), name).bytes,
              FindIn(model_.File("model.safetensors"), name).bytes);
  }
  std::ifstream file(outputs_.File("out/config.json"));
  const nlohmann::json config = nlohmann::json::parse(file);
  EXPECT_EQ(config["hidden_size"], 128);
  EXPECT_EQ(config["quantization_config"]["format"], "pack-quantized");
  EXPECT_EQ(NumOutputs(), 1);
}

TEST_F(CodedCheckpoints, AreCutIntoShards) {
  const SourceModel source = OpenSourceModel(model_.path(), kInt8).value();
  CodedCheckpoint checkpoint(source, StorageOf(source, kInt8), outputs_.path(),
                             /*max_shard_bytes=*/100'000);
  const auto rounder = NewPlainRounder(source, kInt8, 1).value();
  ASSERT_TRUE(checkpoint.CopyNumbers().ok());
  for (int layer = 0; layer < 2; ++layer) {
    for (const LayerProduct product : kLayerProducts) {
      ASSERT_TRUE(checkpoint
                      .Write(WeightsOf(source.map.layers[layer], product),
                             rounder->Round(layer, product).value())
                      .ok());
    }
  }
  ASSERT_TRUE(checkpoint.Finish().ok());
  const auto opened = Checkpoint::Open(outputs_.path(), "model.").value();
  EXPECT_GT(opened->files().size(), 3);
  EXPECT_TRUE(opened->Contains("decoder.layers.1.fc2.weight_scale"));
  for (const auto& file : opened->files()) {
    EXPECT_LE(fs::file_size(file->path()), 100'000 + 8'000) << file->path();
  }
}

TEST_F(CodedCheckpoints, AreNotMadeOfWhatHasNoCodes) {
  EXPECT_THAT(
      Message({WeightFormat::kInt4, 128}),
      HasSubstr("layers.0.fc2.weight has 192 inputs, no whole groups of 128"));

  nlohmann::json config = TinyOptConfig();
  config["num_attention_heads"] = 16;  // of 8 each, which are widened to 16
  WriteTinyCheckpoint(model_, config);
  EXPECT_THAT(Message(kInt8), HasSubstr("are widened from 8 to 16"));

  config = TinyOptConfig();
  config["quantization_config"] = {
      {"quant_method", "gptq"}, {"bits", 4}, {"group_size", 64}};
  model_.Write("config.json", config.dump());
  EXPECT_THAT(Message(kInt8),
              HasSubstr("is quantised already, to int4 in groups of 64"));
}

TEST_F(CodedCheckpoints, NameTheTensorThatIsNotFinite) {
  for (const std::string name : {"model.decoder.layers.1.fc1.weight",
                                 "model.decoder.layers.0.fc1.bias"}) {
    WriteTinyCheckpoint(
        model_, TinyOptConfig(), [&](std::vector<Float32Tensor>* tensors) {
          for (Float32Tensor& tensor : *tensors) {
            if (tensor.name != name) continue;
            tensor.values[7] = std::numeric_limits<float>::quiet_NaN();
          }
        });
    EXPECT_THAT(Message(kInt4), HasSubstr("tensor " + name + " holds"));
  }
}

TEST_F(CodedCheckpoints, AreNotPutInTheModel) {
  QuantizeOptions options;
  options.model = model_.path();
  options.coding = kInt8;
  for (const std::string& out :
       {model_.path(), model_.path() + "/", model_.File("new/one")}) {
    options.out = out;
    EXPECT_THAT(std::string(Quantize(options).status().message()),
                HasSubstr("is in the model's directory"));
  }
}

}  // namespace
}  // namespace h2o

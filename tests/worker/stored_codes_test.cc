// Checkpoints that store codes: every layout gives the numbers that it stands
// for, on any number of ranks, and what is wrong is refused by name.
#include "worker/stored_codes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/kv_page.h"
#include "base/weight_codes.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/small_linear.h"
#include "model/family.h"
#include "tests/model/safetensors_text.h"
#include "tests/model/temp_directory.h"
#include "tests/worker/tiny_model.h"
#include "worker/shard_weights.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

ModelConfig ConfigOf(QuantizationConfig quantization) {
  ModelConfig config = TinyConfig();
  config.num_layers = 1;
  config.qkv = {4, 4, 64};
  config.hidden_size = 256;
  config.embed_dim = 256;
  config.ffn_dim = 512;
  config.quantization = std::move(quantization);
  return config;
}

QuantizationConfig Int4(CodeLayout layout, bool symmetric) {
  QuantizationConfig config;
  config.layout = layout;
  config.coding = {WeightFormat::kInt4, 64};
  config.symmetric = symmetric;
  return config;
}

const QuantizationConfig kPacked = Int4(CodeLayout::kPacked, false);
const QuantizationConfig kSymmetric = Int4(CodeLayout::kPacked, true);
const QuantizationConfig kGptq2 = Int4(CodeLayout::kGptq, true);
const QuantizationConfig kGptq1 = [] {
  QuantizationConfig config = kGptq2;
  config.zeros_less_one = true;
  return config;
}();
const QuantizationConfig kPackedInt8 = {CodeLayout::kPacked,
                                        {WeightFormat::kInt8}};
const QuantizationConfig kInt8 = {CodeLayout::kBytes, {WeightFormat::kInt8}};
const QuantizationConfig kFp8 = {CodeLayout::kBytes, {WeightFormat::kFp8}};

template <class T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()),
          values.size() * sizeof(T)};
}

// One weight in its parts.
struct Weight {
  int64_t outputs = 0, inputs = 0, group = 0;
  std::vector<int> codes;     // [outputs][inputs]
  std::vector<float> scales;  // [outputs][groups], exact in bf16
  std::vector<int> zeros;     // likewise

  int64_t groups() const { return inputs / group; }
  float At(WeightFormat format, int64_t r, int64_t c) const {
    const int code = codes[r * inputs + c];
    const int64_t g = r * groups() + c / group;
    if (format == WeightFormat::kFp8) {
      return FromFp8(static_cast<uint8_t>(code)) * scales[g];
    }
    return static_cast<float>(code - zeros[g]) * scales[g];
  }
};

Weight RandomWeight(int64_t outputs, int64_t inputs,
                    const QuantizationConfig& config, std::mt19937* random) {
  const bool int4 = config.coding.format == WeightFormat::kInt4;
  const bool fp8 = config.coding.format == WeightFormat::kFp8;
  Weight w;
  w.outputs = outputs;
  w.inputs = inputs;
  w.group = int4 ? config.coding.group : inputs;
  w.codes.resize(outputs * inputs);
  for (int& code : w.codes) {
    code = static_cast<int>((*random)() % (int4 ? 16 : 255));
    if (!int4) code = fp8 ? code % 0x7f : code - 127;
  }
  w.scales.resize(outputs * w.groups());
  for (float& scale : w.scales) {
    scale = FromBFloat16(
        ToBFloat16(1e-3f * static_cast<float>(1 + (*random)() % 100)));
  }
  w.zeros.assign(w.scales.size(), int4 ? 8 : 0);
  if (!config.symmetric) {
    for (int& zero : w.zeros) zero = static_cast<int>((*random)() % 16);
  }
  return w;
}

// The value for element [i, j] of a tensor of words, from nibbles of value(r,
// c); the one that is packed comes first.
void PutNibble(std::vector<uint32_t>* words, int64_t word, int64_t nibble,
               int value) {
  (*words)[word] |= static_cast<uint32_t>(value) << (4 * nibble);
}

std::string CodeBytes(const Weight& w, const QuantizationConfig& config) {
  if (config.coding.format != WeightFormat::kInt4) {
    const int offset = config.layout == CodeLayout::kPacked ? 128 : 0;
    std::vector<uint8_t> bytes;
    for (int code : w.codes) {
      bytes.push_back(static_cast<uint8_t>(code + offset));
    }
    return BytesOf(bytes);
  }
  std::vector<uint32_t> words(w.codes.size() / 8);
  for (int64_t r = 0; r < w.outputs; ++r) {
    for (int64_t c = 0; c < w.inputs; ++c) {
      const int64_t word = config.layout == CodeLayout::kGptq
                               ? c / 8 * w.outputs + r
                               : r * (w.inputs / 8) + c / 8;
      PutNibble(&words, word, c % 8, w.codes[r * w.inputs + c]);
    }
  }
  return BytesOf(words);
}

std::string ZeroBytes(const Weight& w, const QuantizationConfig& config) {
  std::vector<uint32_t> words(w.zeros.size() / 8);
  for (int64_t r = 0; r < w.outputs; ++r) {
    for (int64_t g = 0; g < w.groups(); ++g) {
      const int64_t word = config.layout == CodeLayout::kGptq
                               ? g * (w.outputs / 8) + r / 8
                               : r / 8 * w.groups() + g;
      PutNibble(&words, word, r % 8,
                w.zeros[r * w.groups() + g] - (config.zeros_less_one ? 1 : 0));
    }
  }
  return BytesOf(words);
}

std::string ScaleBytes(const Weight& w, const QuantizationConfig& config,
                       std::string_view dtype) {
  std::vector<float> scales(w.scales.size());
  for (int64_t r = 0; r < w.outputs; ++r) {
    for (int64_t g = 0; g < w.groups(); ++g) {
      scales[config.layout == CodeLayout::kGptq ? g * w.outputs + r
                                                : r * w.groups() + g] =
          w.scales[r * w.groups() + g];
    }
  }
  if (dtype == "F32") return BytesOf(scales);
  const DType to = dtype == "F16" ? DType::kFloat16 : DType::kBFloat16;
  std::vector<uint16_t> narrow(scales.size());
  for (size_t i = 0; i < scales.size(); ++i) {
    StoreElement(narrow.data(), to, static_cast<int64_t>(i), scales[i]);
  }
  return BytesOf(narrow);
}

class StoredCodesTest : public ::testing::Test {
 protected:
  // Makes a checkpoint of random codes, which `spoil` may change.
  void Write(const QuantizationConfig& quantization,
             const std::function<void(std::vector<TensorBytes>*)>& spoil = {}) {
    config_ = ConfigOf(quantization);
    weights_.clear();
    std::mt19937 random(7);
    const WeightMap map = MapWeights(family_->names, config_, Shard(0, 1));
    std::vector<TensorBytes> tensors;
    ForEachLinearOfLayers(map, [&](const TensorSlice& s) {
      weights_[s.name] =
          RandomWeight(s.full_rows, s.full_columns, quantization, &random);
      AddCoded(s, &tensors);
    });
    ForEachSlice(map, [&](const TensorSlice& s) {
      if (weights_.contains(s.name)) return;
      const std::vector<float> values(s.full_rows * s.full_columns, 0.5f);
      tensors.push_back(
          {s.name, "F32", {s.full_rows, s.full_columns}, BytesOf(values)});
    });
    if (spoil) spoil(&tensors);
    // Scales of 16 bits and codes of 8 come behind elements of 32 and 64.
    std::stable_sort(tensors.begin(), tensors.end(), [](auto& a, auto& b) {
      return a.dtype.substr(1) > b.dtype.substr(1);
    });
    directory_.Write("model.safetensors", SafetensorsText(tensors));
  }

  void AddCoded(const TensorSlice& s, std::vector<TensorBytes>* tensors) {
    const QuantizationConfig& config = config_.quantization;
    const Weight& w = weights_[s.name];
    const CodedTensors forms =
        CodedTensorsOf(config, s.name, s.full_rows, s.full_columns);
    const auto add = [&](const TensorForm& form, std::string bytes) {
      if (form.name.empty()) return;
      tensors->push_back(
          {form.name, std::string(form.dtype), form.shape, std::move(bytes)});
    };
    add(forms.codes, CodeBytes(w, config));
    add(forms.scales, ScaleBytes(w, config, forms.scales.dtype));
    add(forms.zeros, ZeroBytes(w, config));
    add(forms.shape, BytesOf(std::vector<int64_t>{w.outputs, w.inputs}));
    std::vector<int32_t> groups(w.inputs);
    for (int64_t i = 0; i < w.inputs; ++i) {
      groups[i] = static_cast<int32_t>(i / w.group);
    }
    add(forms.input_group, BytesOf(groups));
  }

  ShardSpec Shard(int rank, int size) const {
    return config_.Shard(rank, size);
  }

  absl::StatusOr<ShardWeights> Load(int rank = 0, int size = 1) {
    CpuBackendOptions backend;
    backend.head_dim = 16;
    backend.max_inputs = 16;
    const auto checkpoint =
        Checkpoint::Open(directory_.path(), family_->names.prefix).value();
    WeightOptions options;
    options.checkpoint = checkpoint.get();
    options.coding = config_.quantization.coding;
    options.num_threads = 2;
    return LoadShardWeights(config_, Shard(rank, size), options,
                            NewCpuBackend(backend).value().get());
  }

  // Row `r` of `m` is the weight's row `row` from column `column` on.
  void ExpectRow(const StoredMatrix& m, int64_t r, const std::string& name,
                 int64_t row, int64_t column) {
    ASSERT_EQ(m.format, config_.quantization.coding.format);
    std::vector<float> mine(AlignedStride(m.columns));
    cpu::WidenRows(m, r, r + 1, mine.data());
    const Weight& w = weights_.at("decoder.layers.0." + name + ".weight");
    for (int64_t c = 0; c < m.columns; ++c) {
      ASSERT_EQ(mine[c], w.At(m.format, row, column + c))
          << name << " [" << row << ", " << column + c << "]";
    }
  }

  void ExpectAllRows(int rank, int size) {
    const absl::StatusOr<ShardWeights> weights = Load(rank, size);
    ASSERT_TRUE(weights.ok()) << weights.status();
    const LayerWeights& layer = weights->layers[0];
    const ShardSpec shard = Shard(rank, size);
    const int64_t width = shard.heads.size() * 64;
    for (int64_t r = 0; r < width; ++r) {
      const int64_t row = shard.heads.begin * 64 + r;
      ExpectRow(layer.qkv.weight, r, "self_attn.q_proj", row, 0);
      ExpectRow(layer.qkv.weight, width + r, "self_attn.k_proj", row, 0);
      ExpectRow(layer.qkv.weight, 2 * width + r, "self_attn.v_proj", row, 0);
    }
    for (int64_t r = 0; r < config_.hidden_size; ++r) {
      ExpectRow(layer.out.weight, r, "self_attn.out_proj", r,
                shard.heads.begin * 64);
      ExpectRow(layer.fc2.weight, r, "fc2", r, shard.ffn_columns.begin);
    }
    for (int64_t r = 0; r < shard.ffn_columns.size(); ++r) {
      ExpectRow(layer.fc1.weight, r, "fc1", shard.ffn_columns.begin + r, 0);
    }
  }

  void ExpectRefused(
      const QuantizationConfig& quantization,
      const std::function<void(std::vector<TensorBytes>*)>& spoil,
      absl::StatusCode code, const std::vector<std::string>& fragments) {
    Write(quantization, spoil);
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), code) << status;
    for (const std::string& fragment : fragments) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(fragment));
    }
  }

  const Family* family_ = FindFamily("opt").value();
  ModelConfig config_;
  std::map<std::string, Weight> weights_;
  TempDirectory directory_;
};

TEST_F(StoredCodesTest, EveryLayoutGivesItsNumbersOnAnyNumberOfRanks) {
  for (const QuantizationConfig& config :
       {kPacked, kSymmetric, kPackedInt8, kInt8, kFp8, kGptq1, kGptq2}) {
    Write(config);
    for (const auto& [rank, size] : {std::pair(0, 1), {0, 2}, {1, 2}, {3, 4}}) {
      SCOPED_TRACE(Describe(config.coding) + " in layout " +
                   std::to_string(static_cast<int>(config.layout)) + ", rank " +
                   std::to_string(rank) + " of " + std::to_string(size));
      ExpectAllRows(rank, size);
    }
  }
}

TEST_F(StoredCodesTest, CutGroupsAreRefusedWithTheNumbers) {
  QuantizationConfig config = kPacked;
  config.coding.group = 128;
  Write(config);
  ExpectAllRows(1, 2);
  const absl::Status cut = Load(1, 4).status();
  EXPECT_EQ(cut.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(cut.message()),
              HasSubstr("are 64 to 128 of 256, which cuts a group of 128: use "
                        "another tensor parallel size"));
  EXPECT_THAT(std::string(cut.message()),
              ::testing::Not(HasSubstr("--weight-group")));
}

// ---- What is refused

// The tensor `name` of the first layer.
TensorBytes& Find(std::vector<TensorBytes>* tensors, const std::string& name) {
  for (TensorBytes& tensor : *tensors) {
    if (tensor.name == "decoder.layers.0." + name) return tensor;
  }
  ADD_FAILURE() << "no " << name;
  return tensors->front();
}

auto Removed(const std::string& name) {
  return [name](std::vector<TensorBytes>* tensors) {
    const std::string full = Find(tensors, name).name;
    std::erase_if(*tensors, [&](auto& tensor) { return tensor.name == full; });
  };
}

// Element `i` is `value`.
template <class T>
auto With(const std::string& name, int64_t i, T value) {
  return [=](std::vector<TensorBytes>* tensors) {
    std::memcpy(Find(tensors, name).bytes.data() + i * sizeof(T), &value,
                sizeof(T));
  };
}

auto Replaced(const std::string& name, const std::string& dtype,
              const std::vector<int64_t>& shape, size_t bytes) {
  return [=](std::vector<TensorBytes>* tensors) {
    TensorBytes& tensor = Find(tensors, name);
    tensor = {tensor.name, dtype, shape, std::string(bytes, '\1')};
  };
}

auto Added(const std::string& name, const std::string& dtype,
           const std::vector<int64_t>& shape, size_t bytes) {
  return [=](std::vector<TensorBytes>* tensors) {
    tensors->push_back(
        {"decoder.layers.0." + name, dtype, shape, std::string(bytes, '\0')});
  };
}

constexpr auto kLost = absl::StatusCode::kDataLoss;
constexpr auto kUnfit = absl::StatusCode::kFailedPrecondition;

TEST_F(StoredCodesTest, TensorsThatAreMissing) {
  for (const char* name : {"fc1.weight_packed", "fc1.weight_scale",
                           "fc1.weight_zero_point", "fc1.weight_shape"}) {
    ExpectRefused(kPacked, Removed(name), kUnfit,
                  {"no tensor", name, "int4 in groups of 64"});
  }
  ExpectRefused(kFp8, Removed("fc2.weight_scale"), kUnfit,
                {"fc2.weight_scale", "fp8"});
  for (const char* name :
       {"fc1.qweight", "fc1.scales", "fc1.qzeros", "fc1.g_idx"}) {
    ExpectRefused(kGptq1, Removed(name), kUnfit, {"no tensor", name});
  }
}

TEST_F(StoredCodesTest, TensorsThatNobodyAsksFor) {
  ExpectRefused(kSymmetric,
                Added("fc1.weight_zero_point", "I32", {64, 4}, 1024), kUnfit,
                {"does not ask for", "fc1.weight_zero_point"});
  ExpectRefused(kPacked, Added("fc1.weight_g_idx", "I32", {256}, 1024), kUnfit,
                {"does not ask for", "fc1.weight_g_idx"});
  ExpectRefused(kFp8, Added("fc1.weight_packed", "I32", {1}, 4), kUnfit,
                {"does not ask for", "fc1.weight_packed"});
}

TEST_F(StoredCodesTest, WeightsThatAreNumbers) {
  const auto plain = Added("fc1.weight", "F32", {512, 256}, 4 * 512 * 256);
  ExpectRefused(kPacked, plain, kUnfit,
                {"model.safetensors: tensor decoder.layers.0.fc1.weight is "
                 "stored as numbers and as codes, in ",
                 "fc1.weight_packed"});
  const auto only_plain = [&](std::vector<TensorBytes>* tensors) {
    Removed("fc1.weight_packed")(tensors);
    plain(tensors);
  };
  ExpectRefused(kPacked, only_plain, kUnfit,
                {"fc1.weight is stored as numbers; the quantization_config",
                 "must hold for all linear layers"});
  ExpectRefused(kInt8, Replaced("fc1.weight", "F16", {512, 256}, 2 * 512 * 256),
                kUnfit, {"fc1.weight is stored as F16; it must be I8"});
}

TEST_F(StoredCodesTest, ShapesThatDisagree) {
  // As if groups were of 128.
  ExpectRefused(kPacked,
                Replaced("fc1.weight_scale", "BF16", {512, 2}, 2 * 512 * 2),
                kUnfit,
                {"fc1.weight_scale has shape [512, 2]", "groups of 64",
                 "asks for [512, 4]"});
  ExpectRefused(kGptq1, Replaced("fc1.scales", "F16", {2, 512}, 2 * 512 * 2),
                kUnfit, {"fc1.scales has shape [2, 512]", "[4, 512]"});
  ExpectRefused(kPacked, Replaced("fc1.weight_packed", "I32", {512, 16}, 32768),
                kUnfit, {"fc1.weight_packed has shape [512, 16]", "[512, 32]"});
  ExpectRefused(kPacked, With<int64_t>("fc1.weight_shape", 1, 255), kUnfit,
                {"fc1.weight_shape holds [512, 255]", "[512, 256]"});
  ExpectRefused(kFp8, Replaced("fc1.weight_scale", "F32", {1, 1}, 4), kUnfit,
                {"fc1.weight_scale has shape [1, 1]", "[512, 1]"});
}

TEST_F(StoredCodesTest, DtypesThatAreWrong) {
  ExpectRefused(kPacked, Replaced("fc1.weight_packed", "F32", {512, 32}, 65536),
                kUnfit, {"fc1.weight_packed is stored as F32", "I32"});
  ExpectRefused(kPacked, Replaced("fc1.weight_scale", "I16", {512, 4}, 4096),
                kUnfit, {"fc1.weight_scale is stored as I16", "BF16"});
  ExpectRefused(kPacked,
                Replaced("fc1.weight_zero_point", "F32", {64, 4}, 1024), kUnfit,
                {"fc1.weight_zero_point is stored as F32", "I32"});
  ExpectRefused(kFp8, Replaced("fc1.weight", "I8", {512, 256}, 512 * 256),
                kUnfit, {"fc1.weight is stored as I8; it must be F8_E4M3"});
}

TEST_F(StoredCodesTest, ScalesThatAreNone) {
  for (const auto& [value, text] : {std::pair(0.0f, "holds 0 at [3, 1]"),
                                    {-0.0f, "holds -0 at [3, 1]"},
                                    {std::nanf(""), "holds nan at [3, 1]"},
                                    {HUGE_VALF, "holds inf at [3, 1]"},
                                    {-HUGE_VALF, "holds -inf at [3, 1]"}}) {
    ExpectRefused(
        kPacked, With<uint16_t>("fc1.weight_scale", 13, ToBFloat16(value)),
        kLost,
        {"model.safetensors: tensor decoder.layers.0.fc1.weight_scale ", text});
  }
  for (const QuantizationConfig& config : {kInt8, kFp8, kPackedInt8}) {
    ExpectRefused(config, With<float>("fc1.weight_scale", 9, 0.0f), kLost,
                  {"fc1.weight_scale holds 0 at [9, 0]"});
    ExpectRefused(config, With<float>("fc1.weight_scale", 9, NAN), kLost,
                  {"fc1.weight_scale holds nan at [9, 0]"});
  }
  ExpectRefused(kGptq1, With<uint16_t>("fc1.scales", 2 * 512 + 5, 0x7c00),
                kLost, {"fc1.scales holds inf at [2, 5]"});
  // Only the rank that reads it says so.
  EXPECT_TRUE(Load(1, 2).ok());
  EXPECT_FALSE(Load(0, 2).ok());
}

TEST_F(StoredCodesTest, NegativeScalesAreServed) {
  Write(kPacked, [](auto* tensors) {
    With<uint16_t>("fc1.weight_scale", 13, ToBFloat16(-0.5f))(tensors);
  });
  weights_["decoder.layers.0.fc1.weight"].scales[13] = -0.5f;
  ExpectAllRows(0, 1);
}

TEST_F(StoredCodesTest, CodesAndZeroPointsThatAreNone) {
  ExpectRefused(kFp8, With<uint8_t>("fc1.weight", 2 * 256 + 17, 0xff), kLost,
                {"fc1.weight holds NaN at [2, 17]"});
  // GPTQ's first version: 15 stands for 16.
  ExpectRefused(kGptq1, With<uint32_t>("fc1.qzeros", 1 * 64 + 2, 0x777777f7),
                kLost,
                {"fc1.qzeros stands for a zero point of 16 at [1, 2], "
                 "output 17; it must be 0 to 15"});
}

TEST_F(StoredCodesTest, InputsThatAreInAnotherOrder) {
  ExpectRefused(kGptq1, With<int32_t>("fc1.g_idx", 70, 0), kUnfit,
                {"fc1.g_idx holds 0 at [70]", "act-order", "it is 1"});
}

// Scales of other dtypes become ours.
TEST_F(StoredCodesTest, ScalesAreConverted) {
  const float scale = 1.0f + 0x1p-9f;  // not a bf16: 1 is the nearest
  Write(kPacked, [&](std::vector<TensorBytes>* tensors) {
    Replaced("fc1.weight_scale", "F32", {512, 4}, 4 * 512 * 4)(tensors);
    Find(tensors, "fc1.weight_scale").bytes =
        BytesOf(std::vector<float>(512 * 4, scale));
  });
  weights_["decoder.layers.0.fc1.weight"].scales.assign(512 * 4, 1.0f);
  ExpectAllRows(0, 1);
  Write(kInt8, [&](std::vector<TensorBytes>* tensors) {
    Replaced("fc1.weight_scale", "F16", {512, 1}, 2 * 512)(tensors);
    Find(tensors, "fc1.weight_scale").bytes =
        BytesOf(std::vector<uint16_t>(512, 0x3801));  // 0.5 and a bit
  });
  weights_["decoder.layers.0.fc1.weight"].scales.assign(512, 0.5f + 0x1p-11f);
  ExpectAllRows(0, 1);
}

}  // namespace
}  // namespace h2o

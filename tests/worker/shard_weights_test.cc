// Dummy weights, the same model for every number of ranks, and stored ones.
#include "worker/shard_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/small_linear.h"
#include "model/family.h"
#include "tests/model/safetensors_text.h"
#include "tests/model/temp_directory.h"
#include "tests/worker/tiny_model.h"

namespace h2o {
namespace {

// A backend of any size: it only stores.
std::unique_ptr<Backend> MakeBackend() {
  CpuBackendOptions options;
  options.head_dim = 16;
  options.max_inputs = 16;
  return NewCpuBackend(options).value();
}

ShardWeights Load(const ModelConfig& config, int rank, int size, DType dtype) {
  WeightOptions options;
  options.dummy_seed = 3;
  options.dtype = dtype;
  options.num_threads = 2;
  return LoadShardWeights(config, config.Shard(rank, size), options,
                          MakeBackend().get())
      .value();
}

float At(const StoredMatrix& m, int64_t r, int64_t c) {
  return LoadElement(m.Row(r), DTypeOf(m.format), c);
}

float Bias(const void* bias, int64_t i) {
  return static_cast<const float*>(bias)[i];
}

// A step looks up rows of the positions, and of the tokens beside a head of
// their own.
TEST(ShardWeights, KnowsTheBytesThatAStepLooksUp) {
  ModelConfig config = TinyConfig();
  const int64_t row = 2 * AlignedStride(config.hidden_size);
  const int64_t positions =
      row * (config.max_positions + config.position_offset);
  config.tied_head = true;
  EXPECT_EQ(Load(config, 0, 1, DType::kBFloat16).looked_up_bytes(), positions);
  config.tied_head = false;
  EXPECT_EQ(Load(config, 0, 1, DType::kBFloat16).looked_up_bytes(),
            positions + row * config.vocab_size);
}

// Every slice of every rank lies where the whole matrix has it.
TEST(ShardWeights, DummyWeightsAreTheSameForEveryTp) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const ModelConfig config = TinyConfig();
    const ShardWeights whole = Load(config, 0, 1, dtype);
    for (int size : {2, 4}) {
      for (int rank = 0; rank < size; ++rank) {
        const ShardSpec shard = config.Shard(rank, size);
        const ShardWeights part = Load(config, rank, size, dtype);
        const int64_t d = config.qkv.head_dim, width = shard.heads.size() * d;
        const LayerWeights& a = whole.layers[1];
        const LayerWeights& b = part.layers[1];
        ASSERT_EQ(b.qkv.weight.rows, 3 * width);
        for (int64_t r = 0; r < 3 * width; ++r) {
          const int64_t row = r / width * config.hidden_size +
                              shard.heads.begin * d + r % width;
          for (int64_t c = 0; c < config.hidden_size; ++c) {
            ASSERT_EQ(At(b.qkv.weight, r, c), At(a.qkv.weight, row, c));
          }
          ASSERT_EQ(Bias(b.qkv.bias, r), Bias(a.qkv.bias, row));
        }
        for (int64_t r = 0; r < config.hidden_size; ++r) {
          for (int64_t c = 0; c < width; ++c) {
            ASSERT_EQ(At(b.out.weight, r, c),
                      At(a.out.weight, r, shard.heads.begin * d + c));
          }
          for (int64_t c = 0; c < shard.ffn_columns.size(); ++c) {
            ASSERT_EQ(At(b.fc2.weight, r, c),
                      At(a.fc2.weight, r, shard.ffn_columns.begin + c));
          }
          // Padding is zero.
          for (int64_t c = width; c < b.out.weight.stride; ++c) {
            ASSERT_EQ(At(b.out.weight, r, c), 0);
          }
        }
        // Biases behind a sum are added after it, by every rank.
        EXPECT_EQ(b.out.bias, nullptr);
        EXPECT_EQ(b.fc2.bias, nullptr);
        EXPECT_EQ(Bias(b.out_bias, 7), Bias(a.out_bias, 7));
        EXPECT_EQ(Bias(b.fc2_bias, 8), Bias(a.fc2_bias, 8));
        ASSERT_EQ(part.head.weight.rows, shard.vocabulary.size());
        EXPECT_EQ(At(part.head.weight, 0, 5),
                  At(whole.head.weight, shard.vocabulary.begin, 5));
      }
    }
  }
}

constexpr WeightCoding kCodings[] = {{WeightFormat::kFp8},
                                     {WeightFormat::kInt8},
                                     {WeightFormat::kInt4, 64},
                                     {WeightFormat::kInt4, 128}};

ModelConfig ConfigForCodes() {
  ModelConfig config = TinyConfig();
  config.qkv = {4, 4, 64};
  config.hidden_size = 256;
  config.ffn_dim = 512;
  return config;
}

std::vector<float> Row(const StoredMatrix& m, int64_t r) {
  std::vector<float> row(AlignedStride(m.columns));
  cpu::WidenRows(m, r, r + 1, row.data());
  row.resize(m.columns);
  return row;
}

// Every slice of two ranks has the codes that one rank has.
void ExpectTheSameForTwoRanks(const ModelConfig& config,
                              const WeightOptions& options) {
  const auto load = [&](int rank, int size) {
    return LoadShardWeights(config, config.Shard(rank, size), options,
                            MakeBackend().get())
        .value();
  };
  const ShardWeights whole = load(0, 1);
  const LayerWeights& a = whole.layers[1];
  for (int rank = 0; rank < 2; ++rank) {
    const ShardSpec shard = config.Shard(rank, 2);
    const ShardWeights part = load(rank, 2);
    const LayerWeights& b = part.layers[1];
    EXPECT_EQ(Row(b.fc1.weight, 5),
              Row(a.fc1.weight, shard.ffn_columns.begin + 5));
    for (const auto& [half, full, begin] :
         {std::tuple(b.out.weight, a.out.weight, shard.heads.begin * 64),
          {b.fc2.weight, a.fc2.weight, shard.ffn_columns.begin}}) {
      const std::vector<float> mine = Row(half, 7), all = Row(full, 7);
      for (int64_t c = 0; c < half.columns; ++c) {
        ASSERT_EQ(mine[c], all[begin + c]) << Name(options.coding.format);
      }
    }
  }
}

TEST(ShardWeights, DummyCodesAreTheSameForEveryTpAndAsLargeAsNumbers) {
  const ModelConfig config = ConfigForCodes();
  for (const WeightCoding coding : kCodings) {
    WeightOptions options;
    options.dummy_seed = 3;
    options.coding = coding;
    ExpectTheSameForTwoRanks(config, options);
    const ShardWeights w = LoadShardWeights(config, config.Shard(0, 1), options,
                                            MakeBackend().get())
                               .value();
    EXPECT_EQ(w.token_embedding.format, WeightFormat::kFloat32);
    const StoredMatrix& fc2 = w.layers[1].fc2.weight;
    ASSERT_EQ(fc2.format, coding.format);
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < fc2.rows; ++r) {
      for (const float x : Row(fc2, r)) sum += x, squares += double{x} * x;
    }
    const auto count = static_cast<double>(fc2.rows * fc2.columns);
    EXPECT_NEAR(std::sqrt(squares / count), 0.02, 0.0005)
        << Name(coding.format);
    EXPECT_NEAR(sum / count, 0, 0.003) << Name(coding.format);
  }
}

TEST(ShardWeights, CutGroupsAreRefusedWithTheNumbers) {
  ModelConfig config = TinyConfig();
  config.qkv = {6, 6, 64};
  config.hidden_size = 384;
  config.ffn_dim = 768;
  WeightOptions options;
  options.coding = {WeightFormat::kInt4, 128};
  const auto load = [&](int size) {
    return LoadShardWeights(config, config.Shard(1, size), options,
                            MakeBackend().get())
        .status();
  };
  const absl::Status cut = load(2);
  EXPECT_EQ(cut.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(cut.message()).find("are 192 to 384 of 384"),
            std::string::npos)
      << cut;
  EXPECT_NE(std::string(cut.message()).find("--weight-group 64"),
            std::string::npos);
  EXPECT_TRUE(load(3).ok());
  options.coding.group = 64;
  EXPECT_TRUE(load(2).ok());
}

TEST(ShardWeights, AnotherSeedIsAnotherModel) {
  const ModelConfig config = TinyConfig();
  WeightOptions options;
  options.dummy_seed = 4;
  const ShardWeights other =
      LoadShardWeights(config, config.Shard(0, 1), options, MakeBackend().get())
          .value();
  EXPECT_NE(At(other.layers[0].fc1.weight, 0, 0),
            At(Load(config, 0, 1, DType::kFloat32).layers[0].fc1.weight, 0, 0));
}

TEST(ShardWeights, OnlyWhatTheConfigHas) {
  ModelConfig config = TinyConfig();
  config.bias = false;
  config.norm_affine = false;
  config.norm_epsilon = 1e-6f;
  config.tied_head = false;
  const ShardWeights w = Load(config, 0, 1, DType::kFloat32);
  EXPECT_EQ(w.layers[0].qkv.bias, nullptr);
  EXPECT_EQ(w.layers[0].attention_norm.weight, nullptr);
  EXPECT_EQ(w.layers[0].attention_norm.epsilon, 1e-6f);
  EXPECT_EQ(w.layers[0].ffn_norm.epsilon, 1e-6f);
  EXPECT_EQ(w.final_norm.epsilon, 1e-6f);
  EXPECT_EQ(w.final_norm.bias, nullptr);
  EXPECT_NE(w.head.weight.data, w.token_embedding.data);
  EXPECT_EQ(w.project_in.weight.data, nullptr);
}

// Heads of 8 lie 16 apart, with zeros between them.
TEST(ShardWeights, NarrowHeadsAreWidenedWithZeros) {
  ModelConfig narrow = TinyConfig();
  narrow.qkv = {12, 12, 8};
  ModelConfig wide = narrow;
  wide.qkv.head_dim = 16;
  wide.head_padding = 8;
  EXPECT_EQ(wide.num_parameters(), narrow.num_parameters());
  for (const auto& [rank, size] : {std::pair(0, 1), {1, 2}, {4, 5}}) {
    const ShardWeights a = Load(narrow, rank, size, DType::kBFloat16);
    const ShardWeights b = Load(wide, rank, size, DType::kBFloat16);
    const LayerWeights& x = a.layers[1];
    const LayerWeights& y = b.layers[1];
    ASSERT_EQ(y.qkv.weight.rows, 2 * x.qkv.weight.rows);
    ASSERT_EQ(y.out.weight.columns, 2 * x.out.weight.columns);
    for (int64_t r = 0; r < y.qkv.weight.rows; ++r) {
      const bool padding = r % 16 >= 8;
      const int64_t from = r / 16 * 8 + r % 16;
      for (int64_t c = 0; c < narrow.hidden_size; ++c) {
        ASSERT_EQ(At(y.qkv.weight, r, c),
                  padding ? 0 : At(x.qkv.weight, from, c));
      }
      ASSERT_EQ(Bias(y.qkv.bias, r), padding ? 0 : Bias(x.qkv.bias, from));
    }
    for (int64_t r = 0; r < narrow.hidden_size; ++r) {
      for (int64_t c = 0; c < y.out.weight.columns; ++c) {
        ASSERT_EQ(At(y.out.weight, r, c),
                  c % 16 >= 8 ? 0 : At(x.out.weight, r, c / 16 * 8 + c % 16));
      }
    }
  }
}

// A checkpoint of TinyConfig, all 0.5 but for one tensor.
class StoredWeights : public ::testing::Test {
 protected:
  absl::Status Load(DType dtype, int rank = 0, int size = 1) {
    const ModelConfig config = TinyConfig();
    const Family* family = FindFamily(config.family).value();
    std::vector<Float32Tensor> tensors;
    ForEachSlice(MapWeights(family->names, config, config.Shard(0, 1)),
                 [&](const TensorSlice& slice) {
                   const int64_t count = slice.full_rows * slice.full_columns;
                   tensors.push_back({slice.name,
                                      {slice.full_rows, slice.full_columns},
                                      std::vector<float>(count, 0.5f)});
                   if (slice.name == name_)
                     tensors.back().values.at(at_) = value_;
                 });
    directory_.Write("model.safetensors", SafetensorsText(tensors));
    const auto checkpoint =
        Checkpoint::Open(directory_.path(), family->names.prefix).value();
    WeightOptions options;
    options.checkpoint = checkpoint.get();
    options.dtype = dtype;
    return LoadShardWeights(config, config.Shard(rank, size), options,
                            MakeBackend().get())
        .status();
  }

  std::string name_ = "decoder.layers.1.fc2.weight";  // [96, 200]
  int64_t at_ = 3 * 200 + 150;
  float value_ = 0.5f;
  TempDirectory directory_;
};

TEST_F(StoredWeights, MustBeFinite) {
  EXPECT_TRUE(Load(DType::kFloat32).ok());
  for (const auto& [value, word] : {std::pair(std::nanf(""), "nan"),
                                    {HUGE_VALF, "inf"},
                                    {-HUGE_VALF, "-inf"}}) {
    value_ = value;
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      const absl::Status status = Load(dtype);
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
      EXPECT_EQ(std::string(status.message())
                    .find("tensor decoder.layers.1.fc2.weight holds " +
                          std::string(word) + " at [3, 150]"),
                0u)
          << status;
    }
    // The rank that reads it says so.
    EXPECT_TRUE(Load(DType::kFloat32, 0, 2).ok());
    EXPECT_FALSE(Load(DType::kFloat32, 1, 2).ok());
  }
  for (const char* name :
       {"decoder.layers.2.self_attn.k_proj.bias",
        "decoder.final_layer_norm.weight", "decoder.embed_tokens.weight"}) {
    name_ = name;
    at_ = 7;
    EXPECT_EQ(Load(DType::kFloat32).code(), absl::StatusCode::kDataLoss);
  }
}

// Numbers of a checkpoint, rounded while they are loaded.
TEST(StoredCodes, AreNearTheNumbersAndTheSameForEveryTp) {
  const ModelConfig config = ConfigForCodes();
  const Family* family = FindFamily(config.family).value();
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<Float32Tensor> tensors;
  ForEachSlice(
      MapWeights(family->names, config, config.Shard(0, 1)),
      [&](const TensorSlice& slice) {
        std::vector<float> values(slice.full_rows * slice.full_columns);
        for (float& x : values) x = normal(random);
        tensors.push_back({slice.name,
                           {slice.full_rows, slice.full_columns},
                           std::move(values)});
      });
  TempDirectory directory;
  directory.Write("model.safetensors", SafetensorsText(tensors));
  const auto checkpoint =
      Checkpoint::Open(directory.path(), family->names.prefix).value();
  WeightOptions options;
  options.checkpoint = checkpoint.get();
  const auto load = [&] {
    return LoadShardWeights(config, config.Shard(0, 1), options,
                            MakeBackend().get())
        .value();
  };
  const ShardWeights plain = load();
  for (const WeightCoding coding : kCodings) {
    options.coding = coding;
    ExpectTheSameForTwoRanks(config, options);
    const ShardWeights coded = load();
    const LayerWeights &a = coded.layers[1], &p = plain.layers[1];
    for (const auto& [codes, numbers] : {std::pair(a.qkv.weight, p.qkv.weight),
                                         {a.out.weight, p.out.weight},
                                         {a.fc1.weight, p.fc1.weight},
                                         {a.fc2.weight, p.fc2.weight}}) {
      ASSERT_EQ(codes.format, coding.format);
      const std::vector<float> mine = Row(codes, 9), right = Row(numbers, 9);
      double errors = 0, squares = 0;
      for (size_t c = 0; c < mine.size(); ++c) {
        errors += std::pow(double{mine[c]} - right[c], 2);
        squares += std::pow(double{right[c]}, 2);
      }
      const double relative = std::sqrt(errors / squares);
      EXPECT_LT(relative, coding.format == WeightFormat::kInt4   ? 0.12
                          : coding.format == WeightFormat::kInt8 ? 0.01
                                                                 : 0.03);
    }
  }
}

TEST_F(StoredWeights, MustFitTheirDType) {
  value_ = 70000;
  EXPECT_TRUE(Load(DType::kFloat32).ok());
  EXPECT_TRUE(Load(DType::kBFloat16).ok());
  const absl::Status status = Load(DType::kFloat16);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(status.message()).find("too large for fp16"),
            std::string::npos)
      << status;
}

}  // namespace
}  // namespace h2o

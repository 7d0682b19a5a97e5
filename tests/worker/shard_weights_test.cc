// Dummy weights: the same model for every number of ranks.
#include "worker/shard_weights.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cpu/cpu_backend.h"
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
  return LoadElement(m.Row(r), m.dtype, c);
}

float Bias(const void* bias, int64_t i) {
  return static_cast<const float*>(bias)[i];
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

}  // namespace
}  // namespace h2o

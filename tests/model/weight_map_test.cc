// Which part of which tensor a rank loads.
#include "model/weight_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family.h"
#include "tests/model/small_config.h"

namespace h2o {
namespace {

using ::testing::IsEmpty;

WeightMap Map(const ModelConfig& config, int rank, int size) {
  const Family* family = FindFamily(config.family).value();
  return MapWeights(family->names, config, config.Shard(rank, size));
}

void ExpectSlice(const TensorSlice& slice, const std::string& name,
                 int64_t full_rows, int64_t full_columns, Range rows,
                 Range columns) {
  EXPECT_EQ(slice.name, name);
  EXPECT_EQ(slice.full_rows, full_rows) << name;
  EXPECT_EQ(slice.full_columns, full_columns) << name;
  EXPECT_EQ(slice.rows, rows) << name;
  EXPECT_EQ(slice.columns, columns) << name;
}

// SmallConfig: 2 heads of 8, hidden 16, ffn 32, 1,000 tokens, 512 positions.
TEST(WeightMap, NamesAndCutsTheTensorsOfOpt) {
  const WeightMap map = Map(SmallConfig(), 1, 2);
  ExpectSlice(map.token_embedding.weight.at(0), "decoder.embed_tokens.weight",
              1000, 16, {500, 1000}, {0, 16});
  ExpectSlice(map.position_embedding.weight.at(0),
              "decoder.embed_positions.weight", 512, 16, {0, 512}, {0, 16});
  ExpectSlice(map.final_norm.bias.at(0), "decoder.final_layer_norm.bias", 1, 16,
              {0, 1}, {0, 16});
  EXPECT_THAT(map.project_in.weight, IsEmpty());
  EXPECT_THAT(map.head.weight, IsEmpty());

  ASSERT_EQ(map.layers.size(), 2u);
  const LayerMap& layer = map.layers[1];
  ASSERT_EQ(layer.qkv.weight.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const std::string name =
        std::string("decoder.layers.1.self_attn.") + "qkv"[i] + "_proj";
    ExpectSlice(layer.qkv.weight[i], name + ".weight", 16, 16, {8, 16},
                {0, 16});
    ExpectSlice(layer.qkv.bias.at(i), name + ".bias", 1, 16, {0, 1}, {8, 16});
  }
  ExpectSlice(layer.out.weight.at(0),
              "decoder.layers.1.self_attn.out_proj.weight", 16, 16, {0, 16},
              {8, 16});
  ExpectSlice(layer.out.bias.at(0), "decoder.layers.1.self_attn.out_proj.bias",
              1, 16, {0, 1}, {0, 16});
  ExpectSlice(layer.fc1.weight.at(0), "decoder.layers.1.fc1.weight", 32, 16,
              {16, 32}, {0, 16});
  ExpectSlice(layer.fc1.bias.at(0), "decoder.layers.1.fc1.bias", 1, 32, {0, 1},
              {16, 32});
  ExpectSlice(layer.fc2.weight.at(0), "decoder.layers.1.fc2.weight", 16, 32,
              {0, 16}, {16, 32});
  ExpectSlice(layer.attention_norm.weight.at(0),
              "decoder.layers.1.self_attn_layer_norm.weight", 1, 16, {0, 1},
              {0, 16});
  ExpectSlice(layer.ffn_norm.bias.at(0),
              "decoder.layers.1.final_layer_norm.bias", 1, 16, {0, 1}, {0, 16});
}

// 6 query heads that share 2 KV heads.
TEST(WeightMap, KeepsQueriesWithTheKvHeadTheyRead) {
  ModelConfig config = SmallConfig();
  config.qkv = {6, 2, 8};
  const LayerMap layer = Map(config, 1, 2).layers[0];
  const Slices& qkv = layer.qkv.weight;
  ExpectSlice(qkv.at(0), "decoder.layers.0.self_attn.q_proj.weight", 48, 16,
              {24, 48}, {0, 16});
  ExpectSlice(qkv.at(1), "decoder.layers.0.self_attn.k_proj.weight", 16, 16,
              {8, 16}, {0, 16});
  ExpectSlice(layer.out.weight.at(0),
              "decoder.layers.0.self_attn.out_proj.weight", 16, 48, {0, 16},
              {24, 48});
}

TEST(WeightMap, ListsOnlyWhatTheModelHas) {
  ModelConfig config = SmallConfig();
  config.embed_dim = 4;
  config.tied_head = false;
  config.bias = config.norm_affine = false;
  const WeightMap map = Map(config, 0, 1);
  ExpectSlice(map.project_in.weight.at(0), "decoder.project_in.weight", 16, 4,
              {0, 16}, {0, 4});
  ExpectSlice(map.project_out.weight.at(0), "decoder.project_out.weight", 4, 16,
              {0, 4}, {0, 16});
  ExpectSlice(map.head.weight.at(0), "lm_head.weight", 1000, 4, {0, 1000},
              {0, 4});
  EXPECT_THAT(map.layers[0].qkv.bias, IsEmpty());
  EXPECT_THAT(map.layers[0].fc2.bias, IsEmpty());
  EXPECT_THAT(map.layers[0].attention_norm.weight, IsEmpty());
  EXPECT_THAT(map.final_norm.bias, IsEmpty());
}

TEST(Family, AnUnknownOneIsRefusedWithThoseThereAre) {
  const absl::Status status = FindFamily("llama").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "no model family \"llama\"; there is \"opt\"");
}

}  // namespace
}  // namespace h2o

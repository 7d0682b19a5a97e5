// What a checkpoint decides: the tied head, and tensors that nobody asks for.
#include "model/checkpoint_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/model/safetensors_text.h"
#include "tests/model/small_config.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kEmbedding[] = "decoder.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

class CheckpointMapTest : public ::testing::Test {
 protected:
  CheckpointMapTest() {
    config_.vocab_size = 10;
    config_.max_positions = 8;
    Reset();
  }

  // All tensors that the config asks for.
  void Reset() {
    tensors_.clear();
    const WeightMap map =
        MapWeights(family_.names, config_, config_.Shard(0, 1));
    ForEachSlice(map, [&](const TensorSlice& slice) {
      Put(slice.name, slice.full_rows, slice.full_columns);
    });
  }
  Float32Tensor& Put(const std::string& name, int64_t rows, int64_t columns) {
    const auto shape = rows == 1 ? std::vector<int64_t>{columns}
                                 : std::vector<int64_t>{rows, columns};
    return tensors_.emplace_back(
        Float32Tensor{name, shape, std::vector<float>(rows * columns, 0.5f)});
  }
  void Remove(const std::string& name) {
    std::erase_if(tensors_, [&](const auto& t) { return t.name == name; });
  }

  absl::StatusOr<WeightMap> Map(int rank = 0, int size = 1) {
    directory_.Write("model.safetensors", SafetensorsText(tensors_));
    checkpoint_ =
        Checkpoint::Open(directory_.path(), family_.names.prefix).value();
    return MapCheckpoint(family_, config_, config_.Shard(rank, size),
                         *checkpoint_);
  }
  void ExpectRefused(const std::string& says) {
    const absl::Status status = Map().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("does not ask for"), HasSubstr(says)));
  }

  const Family& family_ = *FindFamily("opt").value();
  ModelConfig config_ = SmallConfig();
  TempDirectory directory_;
  std::unique_ptr<const Checkpoint> checkpoint_;
  std::vector<Float32Tensor> tensors_;
};

TEST_F(CheckpointMapTest, ATiedHeadIsUsuallyStoredAsTheEmbedding) {
  const WeightMap map = Map().value();
  EXPECT_EQ(map.token_embedding.weight.at(0).name, kEmbedding);
  EXPECT_THAT(map.head.weight, IsEmpty());
}

TEST_F(CheckpointMapTest, ATiedHeadMayBeStoredAsTheHeadAlone) {
  Remove(kEmbedding);
  Put(kHead, config_.vocab_size, config_.embed_dim);
  const WeightMap map = Map(1, 2).value();
  EXPECT_EQ(map.token_embedding.weight.at(0).name, kHead);
  EXPECT_EQ(map.token_embedding.weight.at(0).rows, (Range{5, 10}));
  EXPECT_THAT(map.head.weight, IsEmpty());
}

TEST_F(CheckpointMapTest, OfATiedPairThatDiffersEachIsItself) {
  Put(kHead, config_.vocab_size, config_.embed_dim);
  EXPECT_THAT(Map().value().head.weight, IsEmpty());
  tensors_.back().values.back() = 0.25f;  // in a row of the last rank
  EXPECT_EQ(Map().value().head.weight.at(0).name, kHead);
  EXPECT_EQ(Map().value().token_embedding.weight.at(0).name, kEmbedding);
  EXPECT_THAT(Map(0, 2).value().head.weight, IsEmpty());
  EXPECT_EQ(Map(1, 2).value().head.weight.at(0).name, kHead);
}

TEST_F(CheckpointMapTest, AnUntiedHeadIsAskedFor) {
  config_.tied_head = false;
  EXPECT_EQ(Map().value().head.weight.at(0).name, kHead);
  // Nor does it stand in for the embedding.
  Remove(kEmbedding);
  Put(kHead, config_.vocab_size, config_.embed_dim);
  EXPECT_EQ(Map().value().token_embedding.weight.at(0).name, kEmbedding);
}

TEST_F(CheckpointMapTest, NamesTensorsThatNobodyAsksFor) {
  Put("decoder.layers.2.fc1.bias", 1, 4);
  ExpectRefused("\"decoder.layers.2.fc1.bias\";");
  Reset();
  const ModelConfig whole = config_;
  config_.num_layers = 1;
  ExpectRefused("\"decoder.layers.1.");
  config_ = whole;
  config_.norm_affine = false;
  ExpectRefused("\"decoder.final_layer_norm.bias\"");
  config_ = whole;
  config_.final_norm = false;
  ExpectRefused("\"decoder.final_layer_norm.weight\"");
  config_ = whole;
  config_.bias = false;
  EXPECT_THAT(std::string(Map().status().message()),
              AllOf(HasSubstr(" more;"), Not(HasSubstr("layers.1"))));
}

TEST_F(CheckpointMapTest, KnowsTensorsThatAreHarmless) {
  Put("decoder.version", 1, 1);
  EXPECT_TRUE(Map().ok()) << Map().status();
  for (Float32Tensor& tensor : tensors_) tensor.name = "model." + tensor.name;
  EXPECT_TRUE(Map().ok()) << Map().status();
}

}  // namespace
}  // namespace h2o

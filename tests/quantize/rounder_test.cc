// Whole layers are rounded in turn, each on what the ones in front make.
#include "quantize/rounder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/quantize/tiny_checkpoint.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

constexpr WeightCoding kInt4 = {WeightFormat::kInt4, 64};

// Sequences of 20 tokens and one of 7.
TokenSequences SomeText() {
  TokenSequences text;
  std::mt19937 random(5);
  for (const int length : {20, 20, 20, 7}) {
    std::vector<int32_t>& tokens = text.emplace_back();
    for (int i = 0; i < length; ++i) {
      tokens.push_back(static_cast<int32_t>(random() % 160));
    }
  }
  return text;
}

class Rounders : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteTinyCheckpoint(folder_, TinyOptConfig());
    source_ = OpenSourceModel(folder_.path(), kInt4).value();
  }

  std::vector<CodedMatrix> RoundAll(std::unique_ptr<Rounder> rounder) const {
    std::vector<CodedMatrix> all;
    for (int layer = 0; layer < source_.config.num_layers; ++layer) {
      for (const LayerProduct product : kLayerProducts) {
        all.push_back(rounder->Round(layer, product).value());
      }
    }
    return all;
  }
  std::vector<CodedMatrix> Calibrated(int num_threads) const {
    return RoundAll(
        NewCalibratedRounder(source_, kInt4, SomeText(), num_threads).value());
  }

  const TempDirectory folder_;
  SourceModel source_;
};

TEST_F(Rounders, AgreeForEveryNumberOfThreads) {
  const std::vector<CodedMatrix> one = Calibrated(1);
  const std::vector<CodedMatrix> three = Calibrated(3);
  const std::vector<CodedMatrix> plain =
      RoundAll(NewPlainRounder(source_, kInt4, 2).value());
  ASSERT_EQ(one.size(), 8);
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].codes, three[i].codes) << i;
    EXPECT_EQ(one[i].scales, three[i].scales) << i;
    EXPECT_EQ(one[i].codes.size(), plain[i].codes.size()) << i;
    EXPECT_NE(one[i].codes, plain[i].codes) << i;
  }
}

// Norms behind their halves of a layer, and embeddings of another width.
TEST_F(Rounders, TakeModelsLikeOpt350m) {
  nlohmann::json config = TinyOptConfig();
  config["do_layer_norm_before"] = false;
  config["word_embed_proj_dim"] = 64;
  WriteTinyCheckpoint(folder_, config);
  source_ = OpenSourceModel(folder_.path(), kInt4).value();
  EXPECT_EQ(Calibrated(2).size(), 8);
}

TEST_F(Rounders, RefuseATextThatTheModelFailsOn) {
  WriteTinyCheckpoint(folder_, TinyOptConfig(),
                      [](std::vector<Float32Tensor>* tensors) {
                        for (Float32Tensor& tensor : *tensors) {
                          if (tensor.name != "model.decoder.layers.0.fc1.bias")
                            continue;
                          for (float& x : tensor.values) x = 3e38f;
                        }
                      });
  source_ = OpenSourceModel(folder_.path(), kInt4).value();
  const auto rounder =
      NewCalibratedRounder(source_, kInt4, SomeText(), 2).value();
  const absl::Status status = rounder->Round(0, LayerProduct::kQkv).status();
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("layer 0: the text makes inputs of a product"));
}

}  // namespace
}  // namespace h2o

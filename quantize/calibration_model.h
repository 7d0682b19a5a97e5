// Runs a model over the text that a rounding is calibrated on, one layer at a
// time: no more than one layer's weights are in memory, and the hidden states
// of all tokens.
//
// A layer is begun, the inputs of its products are looked at, which are those
// that the rounded layers in front of it give, its weights are replaced by
// rounded ones, and it is ended.
//
// Threads  one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kv/kv_cache.h"
#include "model/model_config.h"
#include "model/safetensors.h"
#include "model/weight_map.h"
#include "parallel/solo_communicator.h"
#include "quantize/calibration_text.h"
#include "quantize/input_moments.h"
#include "quantize/source_model.h"
#include "worker/forward.h"

namespace h2o {

class CalibrationModel {
 public:
  // Embeds the text, which is not empty.  `source` must outlive it.
  // Errors: as LoadMappedWeights; RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<CalibrationModel>> Create(
      const SourceModel& source, TokenSequences text, int num_threads);

  // Loads a layer.  REQUIRES: they are begun in order.
  absl::Status BeginLayer(int layer);
  // The moments over all the text of the inputs of each of kLayerProducts.
  // Errors: DATA_LOSS if they are not finite; RESOURCE_EXHAUSTED.
  absl::StatusOr<std::vector<UpperMatrix>> Moments(ThreadPool* pool);
  // The product's weights are `rounded` from now on: float32, of the same size;
  // it must live until the layer ends.
  void Replace(LayerProduct product, Matrix rounded);
  // Takes the text through the layer.
  absl::Status EndLayer();

 private:
  CalibrationModel(const SourceModel& source, TokenSequences text,
                   int num_threads);
  absl::Status Prepare();
  absl::Status Embed();
  // Loads parts of the map into weights_.
  absl::Status Load(const WeightMap& part);
  LinearWeights& Of(LayerProduct product);
  // Calls fn(x) with sequence after sequence of hidden states [tokens, hidden],
  // taken through the layer.
  absl::Status RunLayer(absl::FunctionRef<void(size_t sequence, Matrix x)> fn);
  // Sequence `i` of the hidden states.
  Matrix Hidden(size_t i) const;

  const SourceModel& source_;
  const ModelConfig config_;  // of one layer
  const TokenSequences text_;
  const int num_threads_;
  const ShardSpec shard_;
  SoloCommunicator alone_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvCache> cache_;  // of one layer and sequence
  ShardWeights weights_;            // of what runs now
  std::unique_ptr<Forward> forward_;
  Buffer hidden_;   // [tokens of all sequences, hidden]
  Buffer scratch_;  // [longest sequence, hidden]
  int layer_ = 0;
};

}  // namespace h2o

// Joins a rank's weight map with the checkpoint that it is loaded from.
#pragma once

#include "absl/status/statusor.h"
#include "model/family.h"
#include "model/model_config.h"
#include "model/safetensors.h"
#include "model/weight_map.h"

namespace h2o {

// MapWeights, but of a head that config.json ties to the embedding, the tensors
// decide, as in transformers 5: if only one of the two is stored, it is both;
// if both are stored and differ in the rows of this rank, each is itself.
// Errors: FAILED_PRECONDITION naming tensors that config.json does not ask for;
// those that are known to be harmless (Family::ignored) are left out.  Of
// weights that are stored as codes the map has the names of the plain ones.
absl::StatusOr<WeightMap> MapCheckpoint(const Family& family,
                                        const ModelConfig& config,
                                        const ShardSpec& shard,
                                        const Checkpoint& checkpoint);

}  // namespace h2o

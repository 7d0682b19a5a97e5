// Decides what a tied head is made of, and finds tensors that nobody asks for.
#include "model/checkpoint_map.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "model/coded_tensors.h"
#include "model/json_file.h"

namespace h2o {
namespace {

// Whether two matrices have the same bytes in the rows of `slice`, which is one
// of them.
bool SameRows(const StoredTensor& a, const StoredTensor& b,
              const TensorSlice& slice) {
  const std::vector<int64_t> shape = {slice.full_rows, slice.full_columns};
  if (a.dtype != b.dtype || a.shape != shape || b.shape != shape) return false;
  const int64_t row_bytes = slice.full_columns * SizeOf(a.dtype);
  return std::memcmp(a.data + slice.rows.begin * row_bytes,
                     b.data + slice.rows.begin * row_bytes,
                     slice.rows.size() * row_bytes) == 0;
}

absl::Status ResolveTiedHead(const WeightSource& head,
                             const Checkpoint& checkpoint, WeightMap* map) {
  const TensorSlice& slice = map->token_embedding.weight[0];
  if (!checkpoint.Contains(head.weight[0].name)) return absl::OkStatus();
  if (!checkpoint.Contains(slice.name)) {
    map->token_embedding = head;
    return absl::OkStatus();
  }
  H2O_ASSIGN_OR_RETURN(const StoredTensor a, checkpoint.Find(slice.name));
  H2O_ASSIGN_OR_RETURN(const StoredTensor b,
                       checkpoint.Find(head.weight[0].name));
  if (!SameRows(a, b, slice)) map->head = head;
  return absl::OkStatus();
}

// The tensors of coded weights.  The plain ones beside them are refused where
// they are read.
void AddCodedTensors(const WeightMap& map, const QuantizationConfig& config,
                     absl::flat_hash_set<std::string>* names) {
  if (config.layout == CodeLayout::kNone) return;
  ForEachLinearOfLayers(map, [&](const TensorSlice& s) {
    for (TensorForm& form :
         CodedTensorsOf(config, s.name, s.full_rows, s.full_columns).All()) {
      names->insert(std::move(form.name));
    }
  });
}

absl::Status CheckNothingElse(const Family& family, const ModelConfig& config,
                              const WeightMap& map, const WeightSource& head,
                              const Checkpoint& checkpoint) {
  absl::flat_hash_set<std::string> known(family.ignored.begin(),
                                         family.ignored.end());
  known.insert(head.weight[0].name);
  ForEachSlice(map, [&](const TensorSlice& s) { known.insert(s.name); });
  AddCodedTensors(map, config.quantization, &known);
  std::vector<std::string> others;
  for (const std::string& name : checkpoint.Names()) {
    if (!known.contains(name)) others.push_back(Describe(name));
  }
  if (others.empty()) return absl::OkStatus();
  const size_t count = others.size();
  constexpr size_t kShown = 3;
  others.resize(std::min(count, kShown));
  return absl::FailedPreconditionError(absl::StrCat(
      "the checkpoint has tensors that its config.json does not ask for: ",
      absl::StrJoin(others, ", "),
      count > kShown ? absl::StrCat(" and ", count - kShown, " more") : "",
      "; is it the config.json of another model?"));
}

}  // namespace

absl::StatusOr<WeightMap> MapCheckpoint(const Family& family,
                                        const ModelConfig& config,
                                        const ShardSpec& shard,
                                        const Checkpoint& checkpoint) {
  WeightMap map = MapWeights(family.names, config, shard);
  map.stored = config.quantization;
  ModelConfig untied = config;
  untied.tied_head = false;
  const WeightSource head = MapWeights(family.names, untied, shard).head;
  H2O_RETURN_IF_ERROR(CheckNothingElse(family, config, map, head, checkpoint));
  if (config.tied_head) {
    H2O_RETURN_IF_ERROR(ResolveTiedHead(head, checkpoint, &map));
  }
  return map;
}

}  // namespace h2o

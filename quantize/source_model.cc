// Opens the model that is quantised, and refuses what has no codes.
#include "quantize/source_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/checkpoint_map.h"
#include "worker/coded_rows.h"

namespace h2o {
namespace {

absl::Status CheckNumbers(const std::string& directory,
                          const ModelConfig& config) {
  if (config.quantization.layout == CodeLayout::kNone) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(directory, " is quantised already, to ",
                   Describe(config.quantization.coding),
                   "; quantise the checkpoint that it was made from"));
}

absl::Status CheckSlice(const TensorSlice& slice, const WeightCoding& coding) {
  H2O_RETURN_IF_ERROR(CheckCoded(slice, coding));
  if (coding.format != WeightFormat::kInt4 ||
      slice.full_columns % coding.group == 0) {
    return absl::OkStatus();
  }
  const bool in_64 = slice.full_columns % 64 == 0;
  return absl::InvalidArgumentError(absl::StrCat(
      slice.name, " has ", slice.full_columns, " inputs, no whole groups of ",
      coding.group, ", which readers of the checkpoint want: use ",
      in_64 ? "--weight-group 64" : "--weights int8"));
}

absl::Status CheckSlices(const SourceModel& source,
                         const WeightCoding& coding) {
  for (const LayerMap& layer : source.map.layers) {
    for (const LayerProduct product : kLayerProducts) {
      for (const TensorSlice& slice : WeightsOf(layer, product)) {
        H2O_RETURN_IF_ERROR(CheckSlice(slice, coding));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SourceModel> OpenSourceModel(const std::string& directory,
                                            const WeightCoding& coding) {
  SourceModel source;
  source.directory = directory;
  H2O_ASSIGN_OR_RETURN(source.config, ReadModelConfig(directory));
  H2O_RETURN_IF_ERROR(CheckNumbers(directory, source.config));
  H2O_ASSIGN_OR_RETURN(source.family, FindFamily(source.config.family));
  H2O_ASSIGN_OR_RETURN(
      source.checkpoint,
      Checkpoint::Open(directory, source.family->names.prefix));
  H2O_ASSIGN_OR_RETURN(
      source.map, MapCheckpoint(*source.family, source.config,
                                source.config.Shard(0, 1), *source.checkpoint));
  H2O_RETURN_IF_ERROR(CheckSlices(source, coding));
  return source;
}

const Slices& WeightsOf(const LayerMap& layer, LayerProduct product) {
  switch (product) {
    case LayerProduct::kQkv:
      return layer.qkv.weight;
    case LayerProduct::kOut:
      return layer.out.weight;
    case LayerProduct::kFc1:
      return layer.fc1.weight;
    default:
      return layer.fc2.weight;
  }
}

}  // namespace h2o

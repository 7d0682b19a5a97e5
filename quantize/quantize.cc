// Opens, rounds and writes, product after product.
#include "quantize/quantize.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/new_directory.h"
#include "base/status_macros.h"
#include "model/tokenizer.h"
#include "quantize/calibration_text.h"
#include "quantize/coded_checkpoint.h"
#include "quantize/model_files.h"
#include "quantize/rounder.h"
#include "quantize/source_model.h"

namespace h2o {
namespace {

// A sequence of the text that calibrates, if the model takes so many.
constexpr int kSequenceTokens = 1024;

// Whether `path` is in `directory`, or is it.
bool IsWithin(const std::string& path, const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const auto place = [&ignored](const std::string& name) {
    return fs::weakly_canonical(fs::absolute(name, ignored), ignored);
  };
  const fs::path way = place(path).lexically_relative(place(directory));
  return !way.empty() && *way.begin() != "..";
}

absl::Status CheckPlaces(const QuantizeOptions& options) {
  if (IsWithin(options.out, options.model)) {
    return absl::InvalidArgumentError(
        absl::StrCat("out ", options.out, " is in the model's directory ",
                     options.model, "; name another place"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Rounder>> NewRounder(
    const QuantizeOptions& options, const SourceModel& source) {
  if (options.text.empty()) {
    return NewPlainRounder(source, options.coding, options.num_threads);
  }
  const ModelConfig& config = source.config;
  H2O_ASSIGN_OR_RETURN(const auto tokenizer,
                       Tokenizer::Load(options.model, config.vocab_size));
  H2O_ASSIGN_OR_RETURN(
      TokenSequences text,
      ReadCalibrationText(options.text, *tokenizer, options.tokens,
                          std::min(kSequenceTokens, config.max_positions)));
  return NewCalibratedRounder(source, options.coding, std::move(text),
                              options.num_threads);
}

}  // namespace

absl::Status Quantize(const QuantizeOptions& options) {
  H2O_RETURN_IF_ERROR(CheckPlaces(options));
  H2O_ASSIGN_OR_RETURN(const SourceModel source,
                       OpenSourceModel(options.model, options.coding));
  H2O_ASSIGN_OR_RETURN(NewDirectory out, NewDirectory::Create(options.out));
  const QuantizationConfig storage = StorageOf(source, options.coding);
  H2O_RETURN_IF_ERROR(CopyModelFiles(options.model, storage, out.path()));
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Rounder> rounder,
                       NewRounder(options, source));
  CodedCheckpoint checkpoint(source, storage, out.path());
  H2O_RETURN_IF_ERROR(checkpoint.CopyNumbers());
  int64_t done = 0;
  for (int layer = 0; layer < source.config.num_layers; ++layer) {
    for (const LayerProduct product : kLayerProducts) {
      H2O_ASSIGN_OR_RETURN(const CodedMatrix codes,
                           rounder->Round(layer, product));
      H2O_RETURN_IF_ERROR(checkpoint.Write(
          WeightsOf(source.map.layers[layer], product), codes));
      if (options.progress) {
        options.progress(static_cast<double>(++done) /
                         static_cast<double>(4 * source.config.num_layers));
      }
    }
  }
  H2O_RETURN_IF_ERROR(checkpoint.Finish());
  return out.Commit();
}

}  // namespace h2o

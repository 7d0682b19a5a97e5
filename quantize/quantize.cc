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

absl::StatusOr<TokenSequences> ReadText(const QuantizeOptions& options,
                                        const ModelConfig& config) {
  if (options.text.empty()) return TokenSequences();
  H2O_ASSIGN_OR_RETURN(const auto tokenizer,
                       Tokenizer::Load(options.model, config.vocab_size));
  return ReadCalibrationText(options.text, *tokenizer, options.tokens,
                             std::min(kSequenceTokens, config.max_positions));
}

absl::StatusOr<std::unique_ptr<Rounder>> NewRounder(
    const QuantizeOptions& options, const SourceModel& source,
    TokenSequences text) {
  if (text.empty()) {
    return NewPlainRounder(source, options.coding, options.num_threads);
  }
  return NewCalibratedRounder(source, options.coding, std::move(text),
                              options.num_threads);
}

int64_t BytesOf(const Checkpoint& checkpoint) {
  int64_t bytes = 0;
  for (const auto& file : checkpoint.files()) {
    for (const auto& [name, entry] : file->entries()) {
      bytes += entry.end_bytes - entry.begin_bytes;
    }
  }
  return bytes;
}

// The weights of all layers.
absl::Status RoundAll(const SourceModel& source,
                      const std::function<void(double)>& progress,
                      Rounder* rounder, CodedCheckpoint* checkpoint,
                      QuantizeReport* report) {
  const auto layers = static_cast<int>(source.map.layers.size());
  int done = 0;
  for (int layer = 0; layer < layers; ++layer) {
    for (const LayerProduct product : kLayerProducts) {
      const Slices& slices = WeightsOf(source.map.layers[layer], product);
      H2O_ASSIGN_OR_RETURN(const CodedMatrix codes,
                           rounder->Round(layer, product));
      H2O_RETURN_IF_ERROR(checkpoint->Write(slices, codes));
      report->weights += static_cast<int64_t>(slices.size());
      if (progress) progress(static_cast<double>(++done) / (4.0 * layers));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QuantizeReport> Quantize(const QuantizeOptions& options) {
  H2O_RETURN_IF_ERROR(CheckPlaces(options));
  H2O_ASSIGN_OR_RETURN(const SourceModel source,
                       OpenSourceModel(options.model, options.coding));
  H2O_ASSIGN_OR_RETURN(TokenSequences text, ReadText(options, source.config));
  QuantizeReport report;
  for (const auto& sequence : text) {
    report.tokens += static_cast<int64_t>(sequence.size());
  }
  H2O_ASSIGN_OR_RETURN(NewDirectory out, NewDirectory::Create(options.out));
  const QuantizationConfig storage = StorageOf(source, options.coding);
  H2O_RETURN_IF_ERROR(CopyModelFiles(options.model, storage, out.path()));
  H2O_ASSIGN_OR_RETURN(const std::unique_ptr<Rounder> rounder,
                       NewRounder(options, source, std::move(text)));
  CodedCheckpoint checkpoint(source, storage, out.path());
  H2O_RETURN_IF_ERROR(checkpoint.CopyNumbers());
  H2O_RETURN_IF_ERROR(
      RoundAll(source, options.progress, rounder.get(), &checkpoint, &report));
  H2O_RETURN_IF_ERROR(checkpoint.Finish());
  H2O_RETURN_IF_ERROR(out.Commit());
  report.bytes_before = BytesOf(*source.checkpoint);
  report.bytes_after = checkpoint.bytes();
  return report;
}

}  // namespace h2o

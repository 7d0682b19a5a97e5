// h2oserve tune: searches the fastest cuBLASLt kernels for the matrix products
// of a model.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/kv_page.h"
#include "base/status_macros.h"
#include "clients/commands.h"
#include "clients/progress_bar.h"
#include "flags/flags.h"
#include "kernels/cuda/product_choices.h"
#include "kernels/find_device.h"
#include "model/model_spec.h"
#include "parallel/solo_communicator.h"
#include "worker/cuda_options.h"
#include "worker/forward.h"
#include "worker/shard_weights.h"

namespace h2o {
namespace {

struct TuneFlags {
  ModelFlags model;
  DeviceFlags device;
  int tp = 1;
  int max_sequences = 256;
  std::vector<int64_t> rows;  // empty: all that a server of this kind meets
};

int64_t MostRows(const TuneFlags& flags, const ModelConfig& config) {
  return std::max(flags.max_sequences, config.max_positions);
}

// One layer of one rank's part of a model, with dummy weights: the matrix
// products of its steps.
class Layer {
 public:
  static absl::StatusOr<std::unique_ptr<Layer>> Create(const TuneFlags& flags,
                                                       const DeviceName& device,
                                                       ModelConfig config,
                                                       const ShardSpec& shard);

  const Backend& backend() const { return *backend_; }
  // Of a step of this many rows.
  absl::Status Run(int64_t rows);

 private:
  explicit Layer(const ModelConfig& config, const ShardSpec& shard)
      : config_(config), shard_(shard) {}

  const ModelConfig config_;
  const ShardSpec shard_;
  SoloCommunicator alone_;
  std::unique_ptr<Backend> backend_;
  ShardWeights weights_;
  std::unique_ptr<Forward> forward_;
  Buffer residual_;
  Buffer zeros_;  // tokens and positions
  int64_t max_logit_rows_ = 0;
};

absl::StatusOr<std::unique_ptr<Layer>> Layer::Create(const TuneFlags& flags,
                                                     const DeviceName& device,
                                                     ModelConfig config,
                                                     const ShardSpec& shard) {
  ModelSpec model = WithFormats(flags.model.spec, config, /*gpu=*/true);
  H2O_ASSIGN_OR_RETURN(const DType dtype, ProductDType(model));
  H2O_RETURN_IF_ERROR(CheckGpuFormats(model));
  // Other codes are widened to 16 bits where cuBLASLt multiplies them.
  WeightCoding coding = {.format = FormatOf(dtype)};
  if (model.fp8_activations) coding.format = WeightFormat::kFp8;
  config.num_layers = 1;
  std::unique_ptr<Layer> layer(new Layer(config, shard));
  CudaBackendOptions options = CudaOptionsOf(config, shard);
  options.ordinal = device.ordinal;
  options.dtype = dtype;
  options.max_prompt_rows = 1;
  options.cache_directory = flags.device.cache_directory;
  options.search_products = true;
  if (model.fp8_activations) {
    options.fp8_rows = MostRows(flags, config);
  }
  H2O_ASSIGN_OR_RETURN(layer->backend_, NewCudaBackend(options));
  layer->alone_.UseStream(layer->backend_->stream());
  H2O_ASSIGN_OR_RETURN(
      layer->weights_,
      LoadShardWeights(
          layer->config_, layer->shard_,
          {.dummy_seed = model.dummy_seed, .dtype = dtype, .coding = coding},
          layer->backend_.get()));
  layer->max_logit_rows_ = layer->backend_->BatchBucket(flags.max_sequences);
  const int64_t most =
      std::max<int64_t>(layer->max_logit_rows_, config.max_positions);
  H2O_ASSIGN_OR_RETURN(
      layer->forward_,
      Forward::Create(layer->config_, layer->shard_, layer->weights_,
                      layer->backend_.get(), &layer->alone_, most,
                      layer->max_logit_rows_));
  H2O_ASSIGN_OR_RETURN(
      layer->residual_,
      layer->backend_->Allocate(most * AlignedStride(config.hidden_size) *
                                int64_t{sizeof(float)}));
  H2O_ASSIGN_OR_RETURN(layer->zeros_, layer->backend_->Allocate(
                                          most * int64_t{sizeof(int32_t)}));
  return layer;
}

absl::Status Layer::Run(int64_t rows) {
  const Matrix x{residual_.data(), rows, config_.hidden_size,
                 AlignedStride(config_.hidden_size)};
  const int32_t* const zeros = zeros_.As<int32_t>();
  H2O_RETURN_IF_ERROR(forward_->Embed(zeros, zeros, x));
  // The queries stand in for attention's output.  They must be varied numbers,
  // because the time and power of a product depend on its data.
  H2O_RETURN_IF_ERROR(forward_->Layers(
      0, 1, x,
      [&](int, Matrix qkv, Matrix out) {
        const int64_t element = SizeOf(out.dtype);
        backend_->CopyRows(qkv.data, qkv.stride * element, out.data,
                           out.stride * element, out.columns * element, rows);
      },
      {}));
  if (rows <= max_logit_rows_) forward_->Logits(forward_->Features(rows));
  return backend_->Synchronize();
}

// The row counts of decode steps and of packs of prompts that share choices.
// Packs of few tokens and the logits behind a pack are left out; they make a
// quick choice when they first occur.
std::vector<int64_t> RowsOf(const TuneFlags& flags, const ModelConfig& config,
                            const Backend& backend) {
  std::set<int64_t> rows(flags.rows.begin(), flags.rows.end());
  if (!rows.empty()) return {rows.begin(), rows.end()};
  for (int n = 1; n <= flags.max_sequences; ++n) {
    rows.insert(backend.BatchBucket(n));
  }
  for (int n = 1; n <= config.max_positions; ++n) {
    const int64_t shared = cuda::ChoiceRows(n);
    if (shared != n && shared % cuda::kPackRowStep == 0) {
      rows.insert(std::min<int64_t>(shared, config.max_positions));
    }
  }
  return {rows.begin(), rows.end()};
}

// Ranks with equal numbers of heads and columns have the same products.
std::vector<ShardSpec> DistinctShards(const ModelConfig& config, int tp) {
  std::vector<ShardSpec> distinct;
  std::set<std::vector<int64_t>> seen;
  for (int rank = 0; rank < tp; ++rank) {
    const ShardSpec shard = config.Shard(rank, tp);
    if (seen.insert({shard.heads.size(), shard.ffn_columns.size(),
                     shard.vocabulary.size()})
            .second) {
      distinct.push_back(shard);
    }
  }
  return distinct;
}

absl::Status RunTune(const TuneFlags& flags) {
  H2O_ASSIGN_OR_RETURN(const DeviceName device,
                       FindDevice(flags.device.device));
  if (!device.cuda) {
    return absl::InvalidArgumentError(
        absl::StrCat("device ", flags.device.device,
                     "; only a GPU has kernels to choose from"));
  }
  if (flags.device.cache_directory.empty()) {
    return absl::InvalidArgumentError(
        "cache-dir is empty; it is where the choices go");
  }
  H2O_ASSIGN_OR_RETURN(const ModelConfig config, ConfigOf(flags.model.spec));
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(config, flags.tp));
  for (int64_t n : flags.rows) {
    if (n > MostRows(flags, config)) {
      return absl::InvalidArgumentError(
          absl::StrCat("rows ", n, "; a step of ", config.name, " has at most ",
                       MostRows(flags, config), " of them"));
    }
  }
  const std::vector<ShardSpec> shards = DistinctShards(config, flags.tp);
  ProgressBar bar(absl::StrCat("tuning ", config.name));
  for (size_t s = 0; s < shards.size(); ++s) {
    H2O_ASSIGN_OR_RETURN(std::unique_ptr<Layer> layer,
                         Layer::Create(flags, device, config, shards[s]));
    const std::vector<int64_t> rows = RowsOf(flags, config, layer->backend());
    for (size_t r = 0; r < rows.size(); ++r) {
      bar.Set(static_cast<double>(s * rows.size() + r) /
              static_cast<double>(shards.size() * rows.size()));
      H2O_RETURN_IF_ERROR(layer->Run(rows[r]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void AddTuneCommand(CLI::App* app, int* exit_code) {
  CLI::App* command = app->add_subcommand(
      "tune",
      "Searches for the fastest cuBLASLt kernels for a model's matrix products "
      "on this GPU and keeps the choices in --cache-dir, where all commands "
      "find them. Run it once for each kind of GPU, model and --tp: it takes "
      "minutes and gains up to a few percent. On Hopper it tunes products of "
      "more than 96 rows, and the logits. Choices found before are not "
      "searched again");
  auto flags = std::make_shared<TuneFlags>();
  AddModelFlags(command, &flags->model);
  flags->device.device = "cuda";
  AddDeviceFlags(command, &flags->device);
  command->add_option("--tp", flags->tp, "Ranks that share the model")
      ->check(AtLeastOne())
      ->capture_default_str();
  command
      ->add_option("--max-sequences", flags->max_sequences,
                   "Sequences of the largest decode step")
      ->check(AtLeastOne())
      ->capture_default_str();
  command
      ->add_option("--rows", flags->rows,
                   "Numbers of rows to tune for: sequences of a decode step, "
                   "or tokens of prompts. Default: all")
      ->check(Within(1, kMaxPositions, absl::StrCat("1 to ", kMaxPositions)));
  command->callback(
      [flags, exit_code] { *exit_code = ExitCodeOf(RunTune(*flags)); });
}

}  // namespace h2o

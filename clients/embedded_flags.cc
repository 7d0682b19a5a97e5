// The flags of embedded models, and how they are loaded.
#include "clients/embedded_flags.h"

#include <CLI/CLI.hpp>

#include "base/status_macros.h"
#include "clients/progress_bar.h"
#include "kernels/find_device.h"

namespace h2o {

absl::StatusOr<EmbeddedOptions> EmbeddedFlags::Options() const {
  EmbeddedOptions options;
  H2O_ASSIGN_OR_RETURN(options.shard.device, FindDevice(shard.device));
  options.shard.model = model.spec;
  options.shard.size = tp;
  options.shard.num_threads =
      shard.threads > 0 ? shard.threads : AvailableCores();
  options.shard.kv_pool_bytes = shard.kv_pool_bytes;
  options.shard.memory_share = shard.memory_share;
  options.shard.cache_directory = shard.cache_directory;
  return options;
}

void AddEmbeddedFlags(CLI::App* app, EmbeddedFlags* flags) {
  AddModelFlags(app, &flags->model);
  AddShardFlags(app, &flags->shard);
  app->add_option("--tp", flags->tp, "Ranks that share the model")
      ->check(AtLeastOne())
      ->type_name("N")
      ->capture_default_str();
}

absl::StatusOr<std::unique_ptr<Embedded>> LoadEmbedded(
    const EmbeddedOptions& options) {
  H2O_ASSIGN_OR_RETURN(const ModelConfig config, ConfigOf(options.shard.model));
  ProgressBar bar("loading " + config.name);
  return Embedded::Create(options, [&bar](double f) { bar.Set(f); });
}

}  // namespace h2o

#include "clients/embedded_flags.h"

#include <CLI/CLI.hpp>

#include "base/status_macros.h"
#include "kernels/find_device.h"

namespace h2o {

absl::StatusOr<EmbeddedOptions> EmbeddedFlags::Options() const {
  EmbeddedOptions options;
  H2O_ASSIGN_OR_RETURN(options.device, FindDevice(shard.device));
  options.model = model.spec;
  options.tp = tp;
  options.num_threads = shard.threads > 0 ? shard.threads : AvailableCores();
  options.kv_pool_bytes = shard.kv_pool_bytes;
  options.memory_share = shard.memory_share;
  options.cache_directory = shard.cache_directory;
  return options;
}

void AddEmbeddedFlags(CLI::App* app, EmbeddedFlags* flags) {
  AddModelFlags(app, &flags->model);
  AddShardFlags(app, &flags->shard);
  app->add_option("--tp", flags->tp, "Ranks that share the model")
      ->type_name("N")
      ->capture_default_str();
}

}  // namespace h2o

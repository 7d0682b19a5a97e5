// Divides what a group has among its ranks.
#include "worker/shard_options.h"

#include <algorithm>
#include <thread>

namespace h2o {

ShardOptions OptionsOfRank(const ShardOptions& group, int rank) {
  ShardOptions shard = group;
  shard.rank = rank;
  const int threads =
      group.num_threads > 0
          ? group.num_threads
          : static_cast<int>(std::thread::hardware_concurrency());
  shard.num_threads = std::max(1, threads / group.size);
  if (group.device.cuda) {
    shard.device.ordinal += rank;
  } else {
    shard.local_ranks = group.size;
  }
  return shard;
}

}  // namespace h2o

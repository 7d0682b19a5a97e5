// What a build without CUDA links in the place of nccl_communicator.cc.
#include "parallel/nccl_communicator.h"

namespace h2o {

absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(
    std::unique_ptr<Communicator>, int) {
  return absl::FailedPreconditionError(
      "NCCL: this build has no CUDA; configure with -DH2O_WITH_CUDA=ON");
}

}  // namespace h2o

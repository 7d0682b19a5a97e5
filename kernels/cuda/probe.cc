// Asks CUDA about GPUs before anything runs on them.  Each question is asked in
// a child process, because a process that has touched CUDA cannot fork ranks.
#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/machine_rates.h"

namespace h2o {
namespace {

struct GpuCount {
  int count = 0;
  cudaError_t error = cudaSuccess;
};

// What `ask` returns in a child; nothing if the child died of it.
template <class Answer, class Ask>
std::optional<Answer> InChild(Ask&& ask) {
  int ends[2];
  if (::pipe(ends) != 0) return std::nullopt;
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    const Answer answer = ask();
    const bool told = ::write(ends[1], &answer, sizeof(answer)) ==
                      static_cast<ssize_t>(sizeof(answer));
    ::_exit(told ? 0 : 1);
  }
  ::close(ends[1]);
  Answer answer;
  const bool told = child > 0 && ::read(ends[0], &answer, sizeof(answer)) ==
                                     static_cast<ssize_t>(sizeof(answer));
  ::close(ends[0]);
  if (child > 0) ::waitpid(child, nullptr, 0);
  if (!told) return std::nullopt;
  return answer;
}

// Why there is no GPU.  CUDA calls it an old driver, too, where there is none.
std::string ReasonOf(cudaError_t error) {
  int version = 0;
  if (error == cudaErrorInsufficientDriver &&
      cudaDriverGetVersion(&version) == cudaSuccess && version == 0) {
    return "no driver: libcuda.so.1 was not found; a container gets it from "
           "NVIDIA's container toolkit, as with docker's --gpus all";
  }
  return cudaGetErrorString(error);
}

}  // namespace

absl::Status CheckGpu(int ordinal) {
  // Asked once.  Forked ranks inherit the answer and so need not ask when they
  // have initialised CUDA.
  static const GpuCount gpus = [] {
    const auto ask = [] {
      GpuCount g;
      g.error = cudaGetDeviceCount(&g.count);
      return g;
    };
    const GpuCount told =
        InChild<GpuCount>(ask).value_or(GpuCount{0, cudaErrorUnknown});
    // A child gets this error if its parent (this process) has initialised
    // CUDA.  Then this process may ask directly.
    return told.error == cudaErrorInitializationError ? ask() : told;
  }();
  if (gpus.error == cudaSuccess && ordinal < gpus.count) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "device cuda:", ordinal, ": this machine has ", gpus.count, " GPUs",
      gpus.error == cudaSuccess
          ? ""
          : absl::StrCat(" (", ReasonOf(gpus.error), ")")));
}

absl::StatusOr<MachineRates> MeasureGpuRates(int ordinal) {
  H2O_RETURN_IF_ERROR(CheckGpu(ordinal));
  const auto rates = InChild<MachineRates>([ordinal] {
    MachineRates r;
    if (cudaSetDevice(ordinal) != cudaSuccess) ::_exit(1);
    r.read_bytes_per_second = cuda::MeasureReadRate();
    r.bf16_flops_per_second = cuda::MeasureMatrixRate();
    r.fp8_flops_per_second = cuda::MeasureFp8Rate();
    return r;
  });
  if (!rates) {
    return absl::InternalError(
        absl::StrCat("the rates of cuda:", ordinal, " could not be measured"));
  }
  return *rates;
}

}  // namespace h2o

// The widths of attention heads that the kernels have, said once: errors list
// them from here and kernels are compiled for them from here.
#pragma once

#include <cstddef>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace h2o {

// The CUDA kernels are compiled for each width: those of OPT's models.
inline constexpr int kCudaHeadDims[] = {64, 80, 128};

// The CPU kernels take any multiple of a vector, up to the widest head.
inline constexpr int kCpuHeadDimStep = 16;
inline constexpr int kMaxHeadDim = 256;  // no kernel has wider ones

// The least width that the CPU kernels take and that holds `head_dim`.
constexpr int PaddedHeadDim(int head_dim) {
  return (head_dim + kCpuHeadDimStep - 1) / kCpuHeadDimStep * kCpuHeadDimStep;
}

// Errors: INVALID_ARGUMENT naming `head_dim` and the widths there are.
inline absl::Status CheckCudaHeadDim(int head_dim) {
  for (int supported : kCudaHeadDims) {
    if (head_dim == supported) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("head_dim ", head_dim, "; the CUDA kernels have ",
                   absl::StrJoin(kCudaHeadDims, ", ")));
}
inline absl::Status CheckCpuHeadDim(int head_dim) {
  if (head_dim > 0 && head_dim <= kMaxHeadDim &&
      head_dim % kCpuHeadDimStep == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "head_dim ", head_dim, "; the CPU kernels have multiples of ",
      kCpuHeadDimStep, " up to ", kMaxHeadDim));
}

// Returns fn.operator()<head_dim>() for a width of kCudaHeadDims, `otherwise`
// for any other.
template <class Result, class Fn>
Result DispatchHeadDim(int head_dim, Result otherwise, Fn&& fn) {
  const auto try_each = [&]<size_t... i>(std::index_sequence<i...>) {
    Result result = otherwise;
    static_cast<void>(
        ((head_dim == kCudaHeadDims[i] &&
          (result = fn.template operator()<kCudaHeadDims[i]>(), true)) ||
         ...));
    return result;
  };
  return try_each(std::make_index_sequence<std::size(kCudaHeadDims)>());
}

}  // namespace h2o

// The codes of one weight as a checkpoint stores them: found, checked, and
// copied row by row.  Codes keep their bits.  Scales become what
// base/weight_format.h has: float32 of fp8 and int8, the nearest bf16 of int4.
//
// Threads  const methods may be called by any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "model/coded_tensors.h"
#include "model/safetensors.h"
#include "model/weight_map.h"

namespace h2o {

class StoredCodes {
 public:
  // Of the weight that has `slice`, whose heads are not widened.  All outlive
  // it.
  // Errors: FAILED_PRECONDITION naming a tensor that is missing, or that has
  // another dtype or shape than config.json asks for, a weight that is also
  // stored as numbers, or inputs that are not in order.
  static absl::StatusOr<StoredCodes> Find(const Checkpoint& checkpoint,
                                          const QuantizationConfig& config,
                                          const TensorSlice& slice);

  // Row `r` of the slice, in the order of base/weight_codes.h.  False if the
  // row has what no weight can have: then ErrorOf(r) says what.
  bool CopyRow(int64_t r, std::byte* codes, std::byte* scales) const;

  // DATA_LOSS naming the scale, zero point or code of row `r` that is wrong.
  absl::Status ErrorOf(int64_t r) const;

 private:
  StoredCodes(const QuantizationConfig& config, const TensorSlice& slice)
      : config_(config), slice_(slice) {}

  absl::Status FindTensors(const Checkpoint& checkpoint);
  absl::Status CheckOnlyCodes(const Checkpoint& checkpoint,
                              const CodedTensors& forms) const;
  absl::Status CheckWeightShape(const RawTensor& shape) const;
  absl::Status CheckInputsInOrder(const RawTensor& input_group) const;

  bool is_int4() const { return config_.coding.format == WeightFormat::kInt4; }
  int64_t OutputOf(int64_t r) const { return slice_.rows.begin + r; }
  // Elements of the tensors.
  int64_t ScaleIndex(int64_t output, int64_t group) const;
  float ScaleAt(int64_t output, int64_t group) const;
  int ZeroAt(int64_t output, int64_t group) const;

  void CopyCodes(int64_t output, std::byte* codes) const;
  void GatherGptq(int64_t output, std::byte* codes) const;
  bool CopyScale(int64_t output, std::byte* scales) const;
  bool CopyGroupScales(int64_t output, std::byte* scales) const;
  absl::Status BadScale(int64_t output, int64_t group) const;
  absl::Status BadZero(int64_t output, int64_t group) const;

  const QuantizationConfig& config_;
  const TensorSlice& slice_;
  RawTensor codes_, scales_, zeros_;
  DType scale_dtype_ = DType::kFloat32;
  int64_t all_groups_ = 1;  // of an output
  Range groups_ = {0, 1};   // those of the slice
};

}  // namespace h2o

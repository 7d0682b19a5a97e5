// Fills memory with slices of tensors: of a checkpoint, or random ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "model/safetensors.h"
#include "model/weight_map.h"
#include "worker/shard_weights.h"

namespace h2o {

class SliceSource {
 public:
  // All outlive it.  `stored` is of the WeightMap.
  SliceSource(const WeightOptions& options, const QuantizationConfig& stored,
              Backend* backend)
      : options_(options),
        stored_(stored),
        backend_(backend),
        pool_(options.num_threads) {}

  // What a tensor is stored as, unless as codes.
  absl::StatusOr<DType> StorageType(const std::string& name) const;

  // Errors: FAILED_PRECONDITION if the checkpoint lacks the slice's tensor, or
  // has it in another shape.
  absl::Status Check(const TensorSlice& slice) const;
  // The same for FillCodes.  Errors: also those of CheckCoded and
  // StoredCodes::Find.
  absl::Status CheckForCodes(const TensorSlice& slice) const;

  // The slice's rows, `row_bytes` from one to the next; of dummy weights all
  // numbers are `if_dummy`, or random.  REQUIRES: Check is OK.
  // Errors: DATA_LOSS, FAILED_PRECONDITION of NotFiniteError.
  absl::Status Fill(const TensorSlice& slice, DType dtype, int64_t row_bytes,
                    std::optional<float> if_dummy, std::byte* out);

  // The same as codes of WeightOptions::coding, rows of ScaleBytes beside them.
  // Codes that are stored keep their bits.  REQUIRES: CheckForCodes is OK.
  absl::Status FillCodes(const TensorSlice& slice, int64_t row_bytes,
                         std::byte* codes, std::byte* scales);

 private:
  absl::StatusOr<StoredTensor> Find(const std::string& name) const;
  // Calls fill(r, row) for each row of a slice; `row` is `row_bytes` of host
  // memory.  Uploads as many rows at once as the device takes.
  template <class FillRow>
  void UploadRows(int64_t rows, int64_t row_bytes, std::byte* out,
                  FillRow&& fill);
  bool codes_are_stored() const { return stored_.layout != CodeLayout::kNone; }
  absl::Status FillStored(const TensorSlice& slice, const StoredTensor& tensor,
                          DType dtype, int64_t row_bytes, std::byte* out);
  void UploadScales(const std::vector<std::byte>& scales, int64_t row_bytes,
                    std::byte* out);
  void FillConstant(const TensorSlice& slice, DType dtype, int64_t row_bytes,
                    float constant, std::byte* out);
  void FillRandom(const TensorSlice& slice, DType dtype, int64_t row_bytes,
                  std::byte* out);
  absl::Status RoundToCodes(const TensorSlice& slice,
                            const StoredTensor& tensor, int64_t row_bytes,
                            std::byte* codes, std::byte* scales);
  absl::Status CopyCodes(const TensorSlice& slice, int64_t row_bytes,
                         std::byte* codes, std::byte* scales);
  void FillDummyCodes(const TensorSlice& slice, int64_t row_bytes,
                      std::byte* codes, std::byte* scales);
  DummyTensor DummyOf(const TensorSlice& slice, Range rows,
                      Range columns) const;

  const WeightOptions& options_;
  const QuantizationConfig& stored_;
  Backend* const backend_;
  ThreadPool pool_;
};

}  // namespace h2o

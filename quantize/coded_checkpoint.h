// The checkpoint that is written: codes of the layers' weights, and all other
// tensors as they were.
//
// Threads  not thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "model/quantization_config.h"
#include "quantize/checkpoint_writer.h"
#include "quantize/coded_matrix.h"
#include "quantize/source_model.h"

namespace h2o {

// How weights of a coding are stored: int4 packed with zero points, int8 packed
// (which is how transformers takes weights that go with unrounded inputs), fp8
// as bytes.  Names what of the model stays numbers.
QuantizationConfig StorageOf(const SourceModel& source,
                             const WeightCoding& coding);

class CodedCheckpoint {
 public:
  // `source` must outlive it.
  CodedCheckpoint(const SourceModel& source, const QuantizationConfig& storage,
                  const std::string& directory,
                  int64_t max_shard_bytes = CheckpointWriter::kMaxShardBytes);

  // Errors (all): those of CheckpointWriter.
  //
  // The tensors that are no codes; first.  Also DATA_LOSS naming one that holds
  // NaN or infinity.
  absl::Status CopyNumbers();
  // Those of one product, layer after layer, in the order of kLayerProducts.
  absl::Status Write(const Slices& slices, const CodedMatrix& codes);
  absl::Status Finish() { return writer_.Finish(); }

  int64_t bytes() const { return writer_.bytes(); }  // of all tensors

 private:
  absl::Status WriteSlice(const TensorSlice& slice, const CodedMatrix& codes,
                          int64_t first_row);
  // The tensors of these rows, or some of them.
  absl::Status WriteCodes(const CodedMatrix& codes, Range rows);
  absl::Status WriteRowScales(const CodedMatrix& codes, Range rows);
  absl::Status WriteInt4(const CodedMatrix& codes, Range rows);

  const SourceModel& source_;
  const QuantizationConfig storage_;
  CheckpointWriter writer_;
};

}  // namespace h2o

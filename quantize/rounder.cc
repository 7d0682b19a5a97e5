// The two ways to round: plainly, and calibrated on text.
#include "quantize/rounder.h"

#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"
#include "quantize/calibrated_rounding.h"
#include "quantize/calibration_model.h"
#include "quantize/error_feedback.h"
#include "worker/shard_weights.h"
#include "worker/slice_source.h"

namespace h2o {
namespace {

// Of the mean of the moments' diagonal, as in GPTQ.
constexpr double kDamping = 0.01;

// Reads weights of a model into memory of this host.
class WeightReader {
 public:
  WeightReader(const SourceModel& source, const WeightCoding& coding,
               int num_threads, std::unique_ptr<Backend> backend)
      : options_{.checkpoint = source.checkpoint.get(),
                 .coding = coding,
                 .num_threads = num_threads},
        backend_(std::move(backend)),
        slices_(options_, source.map.stored, backend_.get()) {}

  static absl::StatusOr<std::unique_ptr<WeightReader>> Create(
      const SourceModel& source, const WeightCoding& coding, int num_threads) {
    CpuBackendOptions options;
    options.max_inputs = 1;
    options.head_dim = source.config.qkv.head_dim;
    H2O_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                         NewCpuBackend(options));
    return std::make_unique<WeightReader>(source, coding, num_threads,
                                          std::move(backend));
  }

  // Stacked on each other, rounded plainly.
  absl::StatusOr<CodedMatrix> Codes(const Slices& slices) {
    CodedMatrix matrix(options_.coding, RowsOf(slices), slices[0].full_columns);
    int64_t row = 0;
    for (const TensorSlice& slice : slices) {
      H2O_RETURN_IF_ERROR(slices_.Check(slice));
      H2O_RETURN_IF_ERROR(
          slices_.FillCodes(slice, matrix.row_bytes(), matrix.Codes(row),
                            matrix.scales.data() + row * matrix.scale_bytes()));
      row += slice.full_rows;
    }
    return matrix;
  }

  // The same as numbers, a Matrix whose memory is in `memory`.
  absl::StatusOr<Matrix> Numbers(const Slices& slices, Buffer* memory) {
    const int64_t columns = slices[0].full_columns;
    Matrix matrix = {nullptr, RowsOf(slices), columns, AlignedStride(columns)};
    H2O_ASSIGN_OR_RETURN(*memory, Buffer::AllocateHost(matrix.bytes()));
    matrix.data = memory->data();
    int64_t row = 0;
    for (const TensorSlice& slice : slices) {
      H2O_RETURN_IF_ERROR(slices_.Check(slice));
      H2O_RETURN_IF_ERROR(slices_.Fill(slice, DType::kFloat32,
                                       matrix.stride * SizeOf(matrix.dtype),
                                       std::nullopt, matrix.At(row)));
      row += slice.full_rows;
    }
    return matrix;
  }

 private:
  static int64_t RowsOf(const Slices& slices) {
    int64_t rows = 0;
    for (const TensorSlice& slice : slices) rows += slice.full_rows;
    return rows;
  }

  const WeightOptions options_;
  const std::unique_ptr<Backend> backend_;
  SliceSource slices_;
};

class PlainRounder final : public Rounder {
 public:
  PlainRounder(const SourceModel& source, std::unique_ptr<WeightReader> reader)
      : source_(source), reader_(std::move(reader)) {}

  absl::StatusOr<CodedMatrix> Round(int layer, LayerProduct product) override {
    return reader_->Codes(WeightsOf(source_.map.layers[layer], product));
  }

 private:
  const SourceModel& source_;
  const std::unique_ptr<WeightReader> reader_;
};

class CalibratedRounder final : public Rounder {
 public:
  CalibratedRounder(const SourceModel& source, const WeightCoding& coding,
                    int num_threads, std::unique_ptr<WeightReader> reader,
                    std::unique_ptr<CalibrationModel> model)
      : source_(source),
        coding_(coding),
        pool_(num_threads),
        reader_(std::move(reader)),
        model_(std::move(model)) {}

  absl::StatusOr<CodedMatrix> Round(int layer, LayerProduct product) override {
    if (product == kLayerProducts[0]) H2O_RETURN_IF_ERROR(BeginLayer(layer));
    const ErrorFeedback feedback = FactorMoments(
        std::move(moments_[static_cast<size_t>(product)]), kDamping, &pool_);
    H2O_ASSIGN_OR_RETURN(
        const Matrix numbers,
        reader_->Numbers(WeightsOf(source_.map.layers[layer], product),
                         &rounded_.emplace_back()));
    CodedMatrix codes = RoundWithFeedback(numbers, feedback, coding_, &pool_);
    pool_.ParallelFor(numbers.rows, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        codes.Decode(r, {numbers.Row(r), static_cast<size_t>(numbers.columns)});
      }
    });
    model_->Replace(product, numbers);
    return codes;
  }

 private:
  absl::Status BeginLayer(int layer) {
    if (layer > 0) H2O_RETURN_IF_ERROR(model_->EndLayer());
    rounded_.clear();
    H2O_RETURN_IF_ERROR(model_->BeginLayer(layer));
    H2O_ASSIGN_OR_RETURN(moments_, model_->Moments(&pool_));
    return absl::OkStatus();
  }

  const SourceModel& source_;
  const WeightCoding coding_;
  ThreadPool pool_;
  const std::unique_ptr<WeightReader> reader_;
  const std::unique_ptr<CalibrationModel> model_;
  // Of the layer: by product, until it is rounded, and what is rounded.
  std::vector<UpperMatrix> moments_;
  std::vector<Buffer> rounded_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Rounder>> NewPlainRounder(
    const SourceModel& source, const WeightCoding& coding, int num_threads) {
  H2O_ASSIGN_OR_RETURN(auto reader,
                       WeightReader::Create(source, coding, num_threads));
  return std::make_unique<PlainRounder>(source, std::move(reader));
}

absl::StatusOr<std::unique_ptr<Rounder>> NewCalibratedRounder(
    const SourceModel& source, const WeightCoding& coding, TokenSequences text,
    int num_threads) {
  H2O_ASSIGN_OR_RETURN(auto reader,
                       WeightReader::Create(source, coding, num_threads));
  H2O_ASSIGN_OR_RETURN(auto model, CalibrationModel::Create(
                                       source, std::move(text), num_threads));
  return std::make_unique<CalibratedRounder>(
      source, coding, num_threads, std::move(reader), std::move(model));
}

}  // namespace h2o

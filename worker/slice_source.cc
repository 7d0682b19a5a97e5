// Copies slices from a checkpoint to the device, rounds them to codes, or makes
// dummy weights.
#include "worker/slice_source.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/dummy_codes.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "worker/coded_rows.h"
#include "worker/stored_codes.h"
#include "worker/stored_rows.h"

namespace h2o {
namespace {

// Dummy weights have a standard deviation of 0.02; numbers are uniform.
constexpr float kDummyDeviation = 0.02f;
constexpr float kDummyScale = kDummyDeviation * 1.7320508f;

// The stream of random numbers of a tensor's name, the same on every machine.
uint64_t HashName(absl::string_view name) {
  return Fnv1a().AddBytes(name.data(), name.size()).value();
}

absl::Status CheckShape(const TensorSlice& slice, const StoredTensor& tensor) {
  const std::vector<int64_t> vector = {slice.full_columns};
  const std::vector<int64_t> matrix = {slice.full_rows, slice.full_columns};
  const bool one_row = slice.full_rows == 1;
  if (tensor.shape == matrix || (one_row && tensor.shape == vector)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "tensor ", tensor.name, " has shape [", absl::StrJoin(tensor.shape, ", "),
      "]; config.json asks for [",
      absl::StrJoin(one_row ? vector : matrix, ", "), "]"));
}

}  // namespace

absl::StatusOr<DType> SliceSource::StorageType(const std::string& name) const {
  if (options_.dtype != DType::kFloat32 || options_.checkpoint == nullptr) {
    return options_.dtype;
  }
  H2O_ASSIGN_OR_RETURN(StoredTensor tensor, Find(name));
  return tensor.dtype;
}

absl::StatusOr<StoredTensor> SliceSource::Find(const std::string& name) const {
  absl::StatusOr<StoredTensor> tensor = options_.checkpoint->Find(name);
  if (absl::IsNotFound(tensor.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat("the checkpoint has no tensor ", name,
                     ", which its config.json asks for"));
  }
  return tensor;
}

absl::Status SliceSource::Check(const TensorSlice& slice) const {
  if (options_.checkpoint == nullptr) return absl::OkStatus();
  H2O_ASSIGN_OR_RETURN(const StoredTensor tensor, Find(slice.name));
  return CheckShape(slice, tensor);
}

absl::Status SliceSource::CheckForCodes(const TensorSlice& slice) const {
  H2O_RETURN_IF_ERROR(CheckCoded(slice, options_.coding, codes_are_stored()));
  if (!codes_are_stored()) return Check(slice);
  return StoredCodes::Find(*options_.checkpoint, stored_, slice).status();
}

absl::Status SliceSource::Fill(const TensorSlice& slice, DType dtype,
                               int64_t row_bytes, std::optional<float> if_dummy,
                               std::byte* out) {
  if (options_.checkpoint != nullptr) {
    H2O_ASSIGN_OR_RETURN(const StoredTensor tensor, Find(slice.name));
    return FillStored(slice, tensor, dtype, row_bytes, out);
  }
  if (if_dummy) {
    FillConstant(slice, dtype, row_bytes, *if_dummy, out);
  } else {
    FillRandom(slice, dtype, row_bytes, out);
  }
  return absl::OkStatus();
}

absl::Status SliceSource::FillCodes(const TensorSlice& slice, int64_t row_bytes,
                                    std::byte* codes, std::byte* scales) {
  if (options_.checkpoint == nullptr) {
    FillDummyCodes(slice, row_bytes, codes, scales);
    return absl::OkStatus();
  }
  if (codes_are_stored()) return CopyCodes(slice, row_bytes, codes, scales);
  H2O_ASSIGN_OR_RETURN(const StoredTensor tensor, Find(slice.name));
  return RoundToCodes(slice, tensor, row_bytes, codes, scales);
}

absl::Status SliceSource::RoundToCodes(const TensorSlice& slice,
                                       const StoredTensor& tensor,
                                       int64_t row_bytes, std::byte* codes,
                                       std::byte* scales) {
  const int64_t rows = slice.num_rows(), columns = slice.num_columns();
  const int64_t scale_bytes = ScaleBytes(options_.coding, columns);
  std::vector<std::byte> row_scales(rows * scale_bytes);
  std::atomic<int64_t> bad_row = -1;
  UploadRows(rows, row_bytes, codes, [&](int64_t r, std::byte* row) {
    std::vector<float> numbers(columns);
    auto* const bytes = reinterpret_cast<std::byte*>(numbers.data());
    FillStoredRow(slice, tensor, DType::kFloat32, r, columns * 4, bytes);
    std::memset(row, 0, row_bytes);
    if (!AllFinite(bytes, DType::kFloat32, columns)) {
      bad_row = r;
    } else {
      const WeightFormat format = options_.coding.format;
      const float scale = format == WeightFormat::kInt4
                              ? 0
                              : ScaleOfStoredRow(format, slice, tensor, r);
      EncodeCodes(options_.coding, numbers, scale, row,
                  row_scales.data() + r * scale_bytes);
    }
  });
  if (bad_row >= 0) {
    return NotFiniteError(slice, tensor, DType::kFloat32, bad_row);
  }
  UploadScales(row_scales, scale_bytes, scales);
  return absl::OkStatus();
}

void SliceSource::UploadScales(const std::vector<std::byte>& scales,
                               int64_t row_bytes, std::byte* out) {
  const auto rows = static_cast<int64_t>(scales.size()) / row_bytes;
  UploadRows(rows, row_bytes, out, [&](int64_t r, std::byte* row) {
    std::memcpy(row, scales.data() + r * row_bytes, row_bytes);
  });
}

absl::Status SliceSource::CopyCodes(const TensorSlice& slice, int64_t row_bytes,
                                    std::byte* codes, std::byte* scales) {
  H2O_ASSIGN_OR_RETURN(const StoredCodes stored,
                       StoredCodes::Find(*options_.checkpoint, stored_, slice));
  const int64_t rows = slice.num_rows();
  const int64_t scale_bytes = ScaleBytes(options_.coding, slice.num_columns());
  std::vector<std::byte> row_scales(rows * scale_bytes);
  std::atomic<int64_t> bad_row = -1;
  UploadRows(rows, row_bytes, codes, [&](int64_t r, std::byte* row) {
    std::memset(row, 0, row_bytes);
    const bool right =
        stored.CopyRow(r, row, row_scales.data() + r * scale_bytes);
    if (!right) bad_row = r;
  });
  if (bad_row >= 0) return stored.ErrorOf(bad_row);
  UploadScales(row_scales, scale_bytes, scales);
  return absl::OkStatus();
}

void SliceSource::FillDummyCodes(const TensorSlice& slice, int64_t row_bytes,
                                 std::byte* codes, std::byte* scales) {
  const WeightCoding& coding = options_.coding;
  const DummyTensor tensor = DummyOf(slice, slice.rows, slice.columns);
  backend_->FillDummyCodes(tensor, coding.format, codes, row_bytes);
  const float scale = kDummyDeviation * UnitScale(coding.format);
  const int64_t scale_bytes = ScaleBytes(coding, slice.num_columns());
  UploadRows(slice.num_rows(), scale_bytes, scales,
             [&](int64_t, std::byte* row) {
               if (coding.format != WeightFormat::kInt4) {
                 std::memcpy(row, &scale, sizeof(scale));
                 return;
               }
               const GroupScale group = {ToBFloat16(scale), kDummyZero};
               for (int64_t i = 0; i < scale_bytes; i += sizeof(group)) {
                 std::memcpy(row + i, &group, sizeof(group));
               }
             });
}

template <class FillRow>
void SliceSource::UploadRows(int64_t rows, int64_t row_bytes, std::byte* out,
                             FillRow&& fill) {
  const int64_t slab =
      std::max<int64_t>(Device::kMaxUploadBytes / row_bytes, 1);
  for (int64_t first = 0; first < rows; first += slab) {
    const int64_t n = std::min(slab, rows - first);
    backend_->UploadFrom(
        n * row_bytes, out + first * row_bytes, [&](std::byte* host) {
          pool_.ParallelFor(n, 64, [&](int64_t begin, int64_t end, int) {
            for (int64_t r = begin; r < end; ++r) {
              fill(first + r, host + r * row_bytes);
            }
          });
        });
  }
}

absl::Status SliceSource::FillStored(const TensorSlice& slice,
                                     const StoredTensor& tensor, DType dtype,
                                     int64_t row_bytes, std::byte* out) {
  std::atomic<int64_t> bad_row = -1;
  UploadRows(slice.num_rows(), row_bytes, out, [&](int64_t r, std::byte* row) {
    FillStoredRow(slice, tensor, dtype, r, row_bytes, row);
    if (!AllFinite(row, dtype, slice.num_columns())) bad_row = r;
  });
  if (bad_row < 0) return absl::OkStatus();
  return NotFiniteError(slice, tensor, dtype, bad_row);
}

void SliceSource::FillConstant(const TensorSlice& slice, DType dtype,
                               int64_t row_bytes, float constant,
                               std::byte* out) {
  UploadRows(slice.rows.size(), row_bytes, out, [&](int64_t, std::byte* row) {
    for (int64_t c = 0; c < slice.num_columns(); ++c) {
      StoreElement(row, dtype, c, constant);
    }
  });
}

void SliceSource::FillRandom(const TensorSlice& slice, DType dtype,
                             int64_t row_bytes, std::byte* out) {
  const auto fill = [&](Range rows, Range columns, std::byte* to) {
    backend_->FillDummy(DummyOf(slice, rows, columns), dtype, to,
                        row_bytes / SizeOf(dtype));
  };
  if (slice.wide_rows.none() && slice.wide_columns.none()) {
    return fill(slice.rows, slice.columns, out);
  }
  FillConstant(slice, dtype, row_bytes, 0, out);
  const Widening& rows = slice.wide_rows;
  const Widening& columns = slice.wide_columns;
  const int64_t height = rows.none() ? slice.rows.size() : rows.from;
  const int64_t width = columns.none() ? slice.columns.size() : columns.from;
  for (int64_t r = 0; r < slice.rows.size(); r += height) {
    for (int64_t c = 0; c < slice.columns.size(); c += width) {
      const int64_t row = slice.rows.begin + r;
      const int64_t column = slice.columns.begin + c;
      fill({row, row + height}, {column, column + width},
           out + rows(r) * row_bytes + columns(c) * SizeOf(dtype));
    }
  }
}

DummyTensor SliceSource::DummyOf(const TensorSlice& slice, Range rows,
                                 Range columns) const {
  DummyTensor tensor;
  tensor.seed = options_.dummy_seed;
  tensor.stream = HashName(slice.name);
  tensor.scale = kDummyScale;
  tensor.row_begin = rows.begin;
  tensor.rows = rows.size();
  tensor.column_begin = columns.begin;
  tensor.columns = columns.size();
  tensor.full_columns = slice.full_columns;
  return tensor;
}

}  // namespace h2o

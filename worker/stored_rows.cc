// Copies, converts and widens rows, and says which of their elements cannot be.
#include "worker/stored_rows.h"

#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace h2o {
namespace {

// The tensor's row of row `r` in memory.
int64_t StoredRow(const TensorSlice& slice, int64_t r) {
  const Widening& rows = slice.wide_rows;
  return slice.rows.begin + r / rows.to * rows.from + r % rows.to;
}

void Copy(const StoredTensor& tensor, int64_t first, int64_t count, DType dtype,
          std::byte* out) {
  if (dtype == tensor.dtype) {
    std::memcpy(out, tensor.data + first * SizeOf(dtype),
                count * SizeOf(dtype));
    return;
  }
  for (int64_t c = 0; c < count; ++c) {
    StoreElement(out, dtype, c,
                 LoadElement(tensor.data, tensor.dtype, first + c));
  }
}

// Of NaN and infinity all bits of the exponent are set.
template <class Bits>
bool AnyHas(Bits exponent, const std::byte* row, int64_t n) {
  const Bits* bits = reinterpret_cast<const Bits*>(row);
  Bits any = 0;
  for (int64_t i = 0; i < n; ++i) {
    any |= static_cast<Bits>((bits[i] & exponent) == exponent);
  }
  return any != 0;
}

}  // namespace

void FillStoredRow(const TensorSlice& slice, const StoredTensor& tensor,
                   DType dtype, int64_t r, int64_t row_bytes, std::byte* row) {
  const int64_t size = SizeOf(dtype);
  const Widening& columns = slice.wide_columns;
  const bool whole = columns.none();
  const int64_t used = whole ? slice.columns.size() * size : 0;
  std::memset(row + used, 0, row_bytes - used);
  if (r % slice.wide_rows.to >= slice.wide_rows.from) {
    std::memset(row, 0, used);
    return;
  }
  const int64_t width = whole ? slice.columns.size() : columns.from;
  const int64_t first = StoredRow(slice, r) * slice.full_columns;
  for (int64_t c = 0; c < slice.columns.size(); c += width) {
    Copy(tensor, first + slice.columns.begin + c, width, dtype,
         row + columns(c) * size);
  }
}

bool AllFinite(const std::byte* row, DType dtype, int64_t n) {
  switch (dtype) {
    case DType::kFloat32:
      return !AnyHas<uint32_t>(0x7f800000, row, n);
    case DType::kBFloat16:
      return !AnyHas<uint16_t>(0x7f80, row, n);
    case DType::kFloat16:
      return !AnyHas<uint16_t>(0x7c00, row, n);
  }
  return true;
}

absl::Status NotFiniteError(const TensorSlice& slice,
                            const StoredTensor& tensor, DType dtype,
                            int64_t r) {
  const int64_t row = StoredRow(slice, r);
  for (int64_t c = slice.columns.begin; c < slice.columns.end; ++c) {
    const float value =
        LoadElement(tensor.data, tensor.dtype, row * slice.full_columns + c);
    const std::string at = absl::StrCat(
        "tensor ", tensor.name, " holds ", value, " at [",
        tensor.shape.size() > 1 ? absl::StrCat(row, ", ") : "", c, "]");
    if (!std::isfinite(value)) {
      return absl::DataLossError(
          absl::StrCat(at,
                       ", which is not finite, as its logits would be; get the "
                       "checkpoint again"));
    }
    float stored = 0;
    StoreElement(&stored, dtype, 0, value);
    if (!std::isfinite(LoadElement(&stored, dtype, 0))) {
      return absl::FailedPreconditionError(
          absl::StrCat(at, ", which is too large for ",
                       std::string(Name(dtype)), "; use another dtype"));
    }
  }
  H2O_CHECK(false) << tensor.name << " is finite in row " << row;
  return absl::OkStatus();
}

}  // namespace h2o

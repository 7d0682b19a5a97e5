// Rounds rows to codes as base/weight_codes.h has them.
#include "worker/coded_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/kv_page.h"
#include "base/weight_codes.h"
#include "kernels/backend.h"

namespace h2o {

int64_t ScaleBytes(const WeightCoding& coding, int64_t columns) {
  if (coding.format != WeightFormat::kInt4) return sizeof(float);
  return WeightStride(coding.format, columns) / coding.group *
         static_cast<int64_t>(sizeof(GroupScale));
}

absl::Status CheckCoded(const TensorSlice& slice, const WeightCoding& coding,
                        bool stored) {
  if (!slice.wide_rows.none() || !slice.wide_columns.none()) {
    return absl::UnimplementedError(absl::StrCat(
        "--weights ", std::string(Name(coding.format)), ": heads of ",
        slice.name, " are widened from ",
        std::max(slice.wide_rows.from, slice.wide_columns.from), " to ",
        std::max(slice.wide_rows.to, slice.wide_columns.to),
        "; codes are of heads as they are"));
  }
  if (coding.format != WeightFormat::kInt4) return absl::OkStatus();
  const Range& columns = slice.columns;
  const bool whole_groups =
      columns.begin % coding.group == 0 &&
      (columns.end % coding.group == 0 || columns.end == slice.full_columns);
  if (whole_groups) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "this rank's inputs of ", slice.name, " are ", columns.begin, " to ",
      columns.end, " of ", slice.full_columns, ", which cuts a group of ",
      coding.group, ": use another tensor parallel size",
      !stored && coding.group > 64 ? ", or --weight-group 64" : ""));
}

float ScaleOfStoredRow(WeightFormat format, const TensorSlice& slice,
                       const StoredTensor& tensor, int64_t r) {
  const int64_t first = (slice.rows.begin + r) * slice.full_columns;
  std::vector<float> row(slice.full_columns);
  for (int64_t c = 0; c < slice.full_columns; ++c) {
    const float x = LoadElement(tensor.data, tensor.dtype, first + c);
    if (std::isfinite(x)) row[c] = x;
  }
  return ScaleOfRow(format, row);
}

void EncodeCodes(const WeightCoding& coding, absl::Span<const float> row,
                 float scale, std::byte* codes, std::byte* scales) {
  if (coding.format != WeightFormat::kInt4) {
    std::memcpy(scales, &scale, sizeof(scale));
    return EncodeRow(coding.format, row, scale, codes);
  }
  auto* groups = reinterpret_cast<GroupScale*>(scales);
  for (size_t i = 0; i < row.size(); i += coding.group) {
    groups[i / coding.group] = ScaleOfGroup(row.subspan(i, coding.group));
  }
  EncodeInt4Row(row, coding.group, groups, codes);
}

}  // namespace h2o

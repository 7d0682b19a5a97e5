// A weight as codes, on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/weight_codes.h"
#include "base/weight_format.h"
#include "worker/coded_rows.h"

namespace h2o {

// [rows, columns]; codes and scales lie in order (base/weight_codes.h).
struct CodedMatrix {
  CodedMatrix(const WeightCoding& its_coding, int64_t its_rows,
              int64_t its_columns)
      : coding(its_coding),
        rows(its_rows),
        columns(its_columns),
        codes(rows * row_bytes()),
        scales(rows * scale_bytes()) {}

  int64_t row_bytes() const {
    return (columns * BitsOf(coding.format) + 7) / 8;
  }
  int64_t scale_bytes() const { return ScaleBytes(coding, columns); }
  std::byte* Codes(int64_t r) { return codes.data() + r * row_bytes(); }
  const std::byte* Codes(int64_t r) const {
    return codes.data() + r * row_bytes();
  }

  // fp8 and int8.
  float* RowScale(int64_t r) {
    return reinterpret_cast<float*>(scales.data() + r * scale_bytes());
  }
  const float* RowScale(int64_t r) const {
    return reinterpret_cast<const float*>(scales.data() + r * scale_bytes());
  }
  // int4: of each group.
  GroupScale* GroupScales(int64_t r) {
    return reinterpret_cast<GroupScale*>(scales.data() + r * scale_bytes());
  }
  const GroupScale* GroupScales(int64_t r) const {
    return reinterpret_cast<const GroupScale*>(scales.data() +
                                               r * scale_bytes());
  }

  // The numbers of row `r`.
  void Decode(int64_t r, absl::Span<float> out) const {
    if (coding.format == WeightFormat::kInt4) {
      DecodeInt4Row(Codes(r), coding.group, GroupScales(r), out);
    } else {
      DecodeRow(coding.format, Codes(r), *RowScale(r), out);
    }
  }

  const WeightCoding coding;
  const int64_t rows, columns;
  std::vector<std::byte> codes, scales;
};

}  // namespace h2o

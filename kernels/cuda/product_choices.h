// Which kernel of cuBLASLt a product takes: measured once a shape, and kept in
// a file between runs.  Needs no CUDA.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <string>

#include "base/dtype.h"
#include "base/kv_page.h"

namespace h2o::cuda {

struct ProductShape {
  int64_t outputs = 0, inputs = 0, rows = 0;
  DType dtype = DType::kBFloat16;  // of x and of the weights, unless `fp8`
  bool bias = false, relu = false;
  bool float32_outputs = false;
  bool fp8 = false;  // of e4m3 codes; `dtype` is of y and of the bias

  auto operator<=>(const ProductShape&) const = default;
};

// The words of a cublasLtMatmulAlgo_t.
using ProductAlgo = std::array<uint64_t, 8>;

struct ProductChoice {
  bool searched = false;  // at length, by `h2oserve tune`
  ProductAlgo algo = {};

  bool operator==(const ProductChoice&) const = default;
};

using ProductChoices = std::map<ProductShape, ProductChoice>;

// Few rows have choices of their own; more share that of the next multiple of
// 32, as decode batches have them, and packs of prompts that of kPackRowStep.
inline constexpr int64_t kPackRowStep = 256;
constexpr int64_t ChoiceRows(int64_t rows) {
  if (rows <= 256) return rows;
  const int64_t step = rows <= 512 ? 32 : kPackRowStep;
  return CeilDiv(rows, step) * step;
}

// A file is text, a line a shape.  Lines that are torn or not of this form are
// left out; a file that is not there has none.
ProductChoices ReadProductChoices(const std::string& path);

// Adds a choice to the file or replaces an old one of the same shape.  A
// searched choice is replaced only by another searched one, or by one that
// `overrules`.
// Processes take turns; readers see the old file or the new one.  False: it
// could not be written.
bool KeepProductChoice(const ProductShape& shape, const ProductChoice& choice,
                       bool overrules, const std::string& path);

}  // namespace h2o::cuda

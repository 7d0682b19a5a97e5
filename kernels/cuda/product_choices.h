// Which kernel of cuBLASLt a product takes: measured once a shape, and kept in
// a file between runs.  Needs no CUDA.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <string>

#include "base/dtype.h"

namespace h2o::cuda {

struct ProductShape {
  int64_t outputs = 0, inputs = 0, rows = 0;
  DType dtype = DType::kBFloat16;  // of x and of the weights
  bool bias = false, relu = false;
  bool float32_outputs = false;

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

// A file is text, a line a shape.  Lines that are torn or not of this form are
// left out; a file that is not there has none.
ProductChoices ReadProductChoices(const std::string& path);

// Adds `choices` to those of the file: other processes may have written there
// meanwhile, and what they searched for stays.  Readers see the old file or the
// new one.  What cannot be written is not.
void KeepProductChoices(ProductChoices choices, const std::string& path);

}  // namespace h2o::cuda

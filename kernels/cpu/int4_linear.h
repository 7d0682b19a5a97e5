// Linear layers with int4 weights, for few rows.  Codes are looked up or
// widened in registers, so that one row is bound by the memory that holds them.
//
// Codes of a block of kCodeBlock inputs are 16 words of 32 bits: four bits k of
// word j belong to input 16 k + j.  So a vector of words holds eight vectors of
// codes.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace h2o::cpu {

inline constexpr int64_t kWordsOfBlock = 16;

// Brings codes that lie in order into blocks, in place.
void ArrangeInt4(const StoredMatrix& weight, void* codes);

// As SmallLinear, and WidenRows, of blocks.
void Int4Linear(Matrix x, const LinearWeights& weights, Epilogue epilogue,
                int64_t begin, int64_t end, Matrix y);
void WidenInt4Rows(const StoredMatrix& stored, int64_t begin, int64_t end,
                   float* out);

}  // namespace h2o::cpu

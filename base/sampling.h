// How the next token is drawn, and the random numbers that draw it.
//
// Randomness is counter-based (Philox4x32-10: Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC'11): the number for a token is a pure
// function of the request's seed and the token's index, so a draw depends on
// neither the batch nor the number of ranks.
#pragma once

#include <Random123/philox.h>

#include <cmath>
#include <cstdint>

#include "base/host_device.h"

namespace h2o {

// Logits are changed in this order: bias (LogitBias), penalties, temperature,
// min_p, top_k, top_p.
struct SamplingParams {
  float temperature = 0;  // 0: greedy, the lowest id of equal logits
  int32_t top_k = 0;      // 0: off
  float top_p = 0;        // 0 or 1: off
  uint64_t seed = 0;
  // Tokens less probable than so many times the most probable one are never
  // drawn (Nguyen et al., "Turning up the heat: min-p sampling", 2024).  0:
  // off.
  float min_p = 0;
  // Of tokens that the prompt or the answer holds: a positive logit is divided
  // by it, a negative one multiplied (Keskar et al., "CTRL", 2019).  0 or 1:
  // off.
  float repetition_penalty = 0;
  // Subtracted from the logit of a token, by how often the answer holds it, and
  // once if it does at all (OpenAI's API reference).  0: off.
  float frequency_penalty = 0;
  float presence_penalty = 0;

  friend bool operator==(const SamplingParams&,
                         const SamplingParams&) = default;
};

// Most biases of a request.
inline constexpr int kMaxLogitBiases = 1024;

// Added to the logit of a token.
struct LogitBias {
  int32_t token = 0;
  float bias = 0;

  friend bool operator==(const LogitBias&, const LogitBias&) = default;
};

// The least logit that min_p leaves, of a row whose greatest is `greatest`:
// exp((x - greatest) / temperature) >= min_p, solved for x.
// REQUIRES: temperature > 0.
H2O_HOST_DEVICE inline double LeastLogit(float greatest,
                                         const SamplingParams& s) {
  if (!(s.min_p > 0)) return -INFINITY;
  return greatest + static_cast<double>(s.temperature) *
                        std::log(static_cast<double>(s.min_p));
}

// Four 32-bit numbers for counter (`a`, `b`) under `key`.
H2O_HOST_DEVICE inline r123::Philox4x32::ctr_type CounterRandom(uint64_t key,
                                                                uint64_t a,
                                                                uint64_t b) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const r123::Philox4x32::key_type k = {{low(key), high(key)}};
  const r123::Philox4x32::ctr_type c = {{low(a), high(a), low(b), high(b)}};
  return r123::Philox4x32()(c, k);
}

// Uniform in [0, 1), 53 bits: the draw for generated token `index` of a
// request.
H2O_HOST_DEVICE inline double UniformDraw(uint64_t seed, uint64_t index) {
  const auto r = CounterRandom(seed, index, 0);
  const uint64_t bits = (static_cast<uint64_t>(r[0]) << 32) | r[1];
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

}  // namespace h2o

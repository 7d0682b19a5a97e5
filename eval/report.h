// What people and programs see of an evaluation.
#pragma once

#include <string>
#include <vector>

#include "eval/evaluate.h"

namespace h2o {

// A JSON object: policy, budget (null of `full`), kv_bits, bytes_share,
// perplexity, perplexity_low, perplexity_high, agreement, kl,
// attention_mass_kept (null if nothing is scored) and recall {right, asked}
// (null if nothing was asked).
std::string EvalJson(const EvalResult& result);

// A table with a line for each result.
std::string EvalTable(const std::vector<EvalResult>& results);

}  // namespace h2o

// A picture of an evaluation.
#pragma once

#include <string>
#include <vector>

#include "eval/evaluate.h"

namespace h2o {

// SVG: perplexity, with its interval, over KV bytes; one line for each policy.
// REQUIRES: `results` is not empty.
std::string EvalPlot(const std::vector<EvalResult>& results);

}  // namespace h2o

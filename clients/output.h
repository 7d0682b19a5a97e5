// How `generate` and `call` tell people about an answer.
#pragma once

#include <string>

#include "api/result.h"

namespace h2o {

// Tokens, and the KV memory held compared with the full cache.
std::string UsageLine(const Result& result);

}  // namespace h2o

// OPT (Zhang et al. 2022), opt-125m to opt-175b, and its kin: OPT-350m, which
// normalizes after each half of a layer, and Galactica, without biases.
#pragma once

#include "model/family.h"

namespace h2o {

extern const Family kOptFamily;

}  // namespace h2o

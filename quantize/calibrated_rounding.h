// Rounds a weight to codes so that the outputs of its layer change least.
#pragma once

#include "base/thread_pool.h"
#include "base/weight_format.h"
#include "kernels/backend.h"
#include "quantize/coded_matrix.h"
#include "quantize/error_feedback.h"

namespace h2o {

// Every row is rounded input by input with error feedback.  int4: a group's
// scale and zero point are those of ScalesToTry, made of what its weights are
// to be by then, that cost the group's outputs least.  fp8: of scales within an
// octave, likewise for the whole row; e4m3 is the same in every octave.  int8:
// ScaleOf.  The same for every number of threads.
// REQUIRES: `weights` is float32 [outputs, feedback.size()], all finite; groups
// of int4 divide its columns.
CodedMatrix RoundWithFeedback(Matrix weights, const ErrorFeedback& feedback,
                              const WeightCoding& coding, ThreadPool* pool);

}  // namespace h2o

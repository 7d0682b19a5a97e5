// How the error of a rounded weight is made up for by the weights behind it.
//
// The inputs of an output are rounded in order.  With the moments H of the
// inputs (input_moments.h) factored as H = (U + I) diag(d) (U + I)^T, U
// strictly upper triangular, the errors e = w - w' of a row cost
//
//   e H e^T = sum over k of d[k] (e[k] + sum over j < k of e[j] U[j, k])^2,
//
// so weight k is best rounded from w[k] + sum over j < k of e[j] U[j, k].
// That is GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for
// Generative Pre-trained Transformers", 2022) in the form of Chee et al.
// ("QuIP", 2023), who show that the two are the same.  It needs one
// factorization and no inverse.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "quantize/input_moments.h"

namespace h2o {

struct ErrorFeedback {
  UpperMatrix u;         // above its diagonal; the rest is undefined
  std::vector<float> d;  // all above 0

  int64_t size() const { return u.size(); }
};

// Factors moments + damping * (mean of their diagonal) * I, in place.  An input
// that was always zero gets no feedback and gives none; if all were, rounding
// is plain.
ErrorFeedback FactorMoments(UpperMatrix moments, double damping,
                            ThreadPool* pool);

}  // namespace h2o

#include "clients/bench_report.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>

namespace h2o {
namespace {

// Parameters that a token's forward pass multiplies with: all but the tables
// that are only looked up, the head included.
double LinearParameters(const OptConfig& config) {
  const double h = config.hidden_size;
  double per_layer = 4 * h * h + 2 * h * config.ffn_dim;
  double rest = static_cast<double>(config.vocab_size) * config.embed_dim;
  if (config.has_projections()) rest += 2 * h * config.embed_dim;
  return config.num_layers * per_layer + rest;
}

}  // namespace

BenchFloor ComputeFloor(const OptConfig& config, const KvGeometry& geometry,
                        const BenchLoad& load, double weight_bytes,
                        int sequences_at_once, double read_bytes_per_second,
                        double flops_per_second) {
  BenchFloor floor;
  const double parameters = LinearParameters(config);
  const double head = static_cast<double>(config.vocab_size) * config.embed_dim;
  const double length = load.prompt_len;
  // Only the last row of a prompt needs the head; attention is causal, q k^T
  // and p v, each half of length^2.
  const double attention =
      2.0 * length * length * config.hidden_size * config.num_layers;
  floor.prefill_seconds =
      load.num_seqs *
      (2 * (parameters - head) * length + 2 * head + attention) /
      flops_per_second;

  const double slot_bytes = 2.0 * config.hidden_size *
                                SizeOf(geometry.page.dtype) *
                                config.num_layers +
                            8.0 * config.num_heads * config.num_layers;
  const double rounds =
      std::ceil(static_cast<double>(load.num_seqs) / sequences_at_once);
  const double rows = load.num_seqs / rounds;
  for (int step = 1; step < load.gen_len; ++step) {
    const double held =
        std::min<double>(load.slots, load.prompt_len + step - 1);
    const double linear = std::max(weight_bytes / read_bytes_per_second,
                                   2 * parameters * rows / flops_per_second);
    floor.decode_seconds +=
        rounds * (linear + rows * held * slot_bytes / read_bytes_per_second);
  }
  return floor;
}

void FullBatchSteps::OnToken(double now, bool first, bool last) {
  started_ += first;
  over_ |= last;
  if (over_ || first || started_ < num_seqs_) return;
  if (++tokens_ < num_seqs_) return;
  tokens_ = 0;
  if (last_step_ >= 0) seconds_.push_back(now - last_step_);
  last_step_ = now;
}

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const size_t i =
      std::min(values.size() - 1, static_cast<size_t>(q * values.size()));
  std::nth_element(values.begin(), values.begin() + i, values.end());
  return values[i];
}

int64_t PeakResidentBytes() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

}  // namespace h2o

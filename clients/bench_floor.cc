// Computes the least time of a load from the rates of the machine.
#include "clients/bench_floor.h"

#include <algorithm>
#include <cmath>

namespace h2o {
namespace {

// Parameters with which a token's forward pass multiplies: the head included,
// the tables that are only looked up excluded.
double LinearParameters(const ModelConfig& config) {
  const double h = config.hidden_size;
  const double attention =
      static_cast<double>(config.qkv.columns() + config.qkv.query_columns());
  double per_layer = attention * h + 2 * h * config.ffn_dim;
  double rest = static_cast<double>(config.vocab_size) * config.embed_dim;
  if (config.has_projections()) rest += 2 * h * config.embed_dim;
  return config.num_layers * per_layer + rest;
}

// Bytes that a slot of all heads and layers costs a decode step: its key, its
// value, and about 8 of its score and position.
double SlotBytes(const KvGeometry& geometry) {
  double bytes = 0;
  for (int layer = 0; layer < geometry.num_layers; ++layer) {
    for (int head = 0; head < geometry.num_heads; ++head) {
      const KvFormat& format = geometry.FormatOf(layer, head);
      bytes += 8.0 + 2 * KvPageLayout{geometry.head_dim, format}.RowBytes();
    }
  }
  return bytes;
}

// Walks through the load: prompts share a prefill as far as they fit, and
// sequences that run at once share a step.  Calls of_pack(prompts) for each
// prefill and of_step(rows, slots held by each) for each decode step, and
// returns the sums of their results.
template <class OfPack, class OfStep>
BenchFloor SumUp(const BenchLoad& load, OfPack&& of_pack, OfStep&& of_step) {
  BenchFloor floor;
  const int of_one = static_cast<int>(
      std::clamp<int64_t>(load.packed_tokens / load.prompt_len, 1,
                          std::max(load.sequences_at_once, 1)));
  const int full_packs = load.num_seqs / of_one;
  floor.prefill_seconds = full_packs * of_pack(of_one);
  if (load.num_seqs % of_one > 0) {
    floor.prefill_seconds += of_pack(load.num_seqs % of_one);
  }
  const double rounds =
      std::ceil(static_cast<double>(load.num_seqs) / load.sequences_at_once);
  for (int step = 1; step < load.gen_len; ++step) {
    const double held =
        std::min<double>(load.slots, load.prompt_len + step - 1);
    floor.decode_seconds += rounds * of_step(load.num_seqs / rounds, held);
  }
  return floor;
}

}  // namespace

BenchFloor ComputeFloor(const ModelConfig& config, const KvGeometry& geometry,
                        const BenchLoad& load, const BenchMachine& machine) {
  const auto longer = [&](double bytes, double flops, double flops_per_second) {
    return std::max(bytes / machine.read_bytes_per_second,
                    flops / flops_per_second);
  };
  const auto products = [&](double flops) {
    return longer(load.weight_bytes, flops, machine.product_flops_per_second);
  };
  const auto attention = [&](double bytes, double flops) {
    return longer(bytes, flops, machine.flops_per_second);
  };
  const double parameters = LinearParameters(config);
  const double head = static_cast<double>(config.vocab_size) * config.embed_dim;
  const double behind_last_attention =
      static_cast<double>(config.hidden_size) *
      (static_cast<double>(config.qkv.query_columns()) + 2.0 * config.ffn_dim);
  const double length = load.prompt_len;
  // Of queries, over all layers.
  const double query_width =
      static_cast<double>(config.qkv.query_columns()) * config.num_layers;
  const double slot_bytes = SlotBytes(geometry);
  const auto of_pack = [&](int prompts) {
    // Only the last row of a prompt needs the head, and what is behind the last
    // attention; attention is causal, q k^T and p v, each half of length^2.
    const double of_last = head + behind_last_attention;
    return products(prompts * 2 * ((parameters - of_last) * length + of_last)) +
           attention(0, prompts * 2 * length * length * query_width);
  };
  const auto of_step = [&](double rows, double held) {
    return products(2 * parameters * rows) +
           attention(rows * held * slot_bytes, rows * held * 4 * query_width);
  };
  return SumUp(load, of_pack, of_step);
}

BenchFloor AllReduceFloor(const ModelConfig& config, const BenchLoad& load,
                          const BenchMachine& machine) {
  const auto seconds = [&](double rows, int columns) {
    return SecondsOf(machine.all_reduces,
                     rows * columns * machine.activation_bytes);
  };
  // Behind the last attention go `last` of the rows.
  const auto of_rows = [&](double rows, double last) {
    return 2 * (config.num_layers - 1) * seconds(rows, config.hidden_size) +
           2 * seconds(last, config.hidden_size) +
           seconds(rows, config.embed_dim);
  };
  return SumUp(
      load,
      [&](int prompts) {
        return of_rows(static_cast<double>(prompts) * load.prompt_len, prompts);
      },
      [&](double rows, double) { return of_rows(rows, rows); });
}

}  // namespace h2o

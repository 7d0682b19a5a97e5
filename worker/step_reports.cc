// Copies logits and kept sets to the host, for the sequences that asked.
#include "worker/step_reports.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "base/status_macros.h"

namespace h2o {

Logprobs ToLogprobs(const LogprobRow& row) {
  return {row.chosen, {row.top, row.top + row.num_top}};
}

absl::Status StepReports::AddLogits(absl::Span<OpenSequence* const> rows,
                                    StepInFlight* step) {
  Backend& backend = *parts_.backend;
  const Matrix whole = head_.WholeLogits(static_cast<int64_t>(rows.size()));
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r] == nullptr || !rows[r]->spec.logits) continue;
    RowResult ran;
    LogitRows out{rows[r]->spec.id, rows[r]->position(), {}};
    out.rows.resize(parts_.config.vocab_size);
    H2O_RETURN_IF_ERROR(backend.Synchronize());
    backend.Download(whole.At(r), out.rows.size() * sizeof(float),
                     out.rows.data());
    backend.Download(parts_.workspace.results + r, sizeof(ran), &ran);
    H2O_RETURN_IF_ERROR(backend.Synchronize());
    if (ran.token >= 0) step->result.logits.push_back(std::move(out));
  }
  return absl::OkStatus();
}

absl::Status StepReports::ForLogitsOf(
    int64_t first_row, int64_t count,
    absl::FunctionRef<absl::Status(int64_t, Matrix)> with) {
  const Matrix features =
      parts_.forward->Features(first_row + count).Rows(first_row, count);
  for (int64_t at = 0; at < count; at += parts_.max_rows) {
    const int64_t n = std::min(parts_.max_rows, count - at);
    H2O_RETURN_IF_ERROR(
        head_.GatherLogits(parts_.forward->Logits(features.Rows(at, n))));
    H2O_RETURN_IF_ERROR(with(at, head_.WholeLogits(n)));
  }
  return absl::OkStatus();
}

absl::Status StepReports::AddPromptLogits(const OpenSequence& sequence,
                                          int64_t first_row,
                                          StepInFlight* step) {
  Backend& backend = *parts_.backend;
  const int64_t vocabulary = parts_.config.vocab_size;
  LogitRows out{sequence.spec.id, 0, {}};
  const auto add = [&](int64_t at, Matrix whole) {
    H2O_RETURN_IF_ERROR(backend.Synchronize());
    out.rows.resize((at + whole.rows) * vocabulary);
    for (int64_t r = 0; r < whole.rows; ++r) {
      backend.Download(whole.At(r), vocabulary * sizeof(float),
                       out.rows.data() + (at + r) * vocabulary);
    }
    return backend.Synchronize();
  };
  H2O_RETURN_IF_ERROR(
      ForLogitsOf(first_row, sequence.prompt_length() - 1, add));
  if (!out.rows.empty()) step->result.logits.push_back(std::move(out));
  return absl::OkStatus();
}

absl::Status StepReports::AddPromptLogprobs(const OpenSequence& sequence,
                                            int64_t first_row,
                                            StepInFlight* step) {
  Backend& backend = *parts_.backend;
  const SequenceSpec& spec = sequence.spec;
  const int64_t count = sequence.prompt_length() - spec.generated - 1;
  LogprobRow* const on_device = parts_.workspace.logprobs;
  std::vector<LogprobRow> rows(std::min(parts_.max_rows, count));
  LogprobRows out{spec.id, 1, {}};
  const auto add = [&](int64_t at, Matrix whole) {
    if (parts_.shard.rank != 0) return absl::OkStatus();
    backend.PromptLogprobs(whole, parts_.TokensAt(sequence.seat) + at + 1,
                           std::max(spec.top_logprobs, 0), on_device);
    H2O_RETURN_IF_ERROR(backend.Synchronize());
    backend.Download(on_device, whole.rows * sizeof(LogprobRow), rows.data());
    H2O_RETURN_IF_ERROR(backend.Synchronize());
    std::transform(rows.begin(), rows.begin() + whole.rows,
                   std::back_inserter(out.rows), ToLogprobs);
    return absl::OkStatus();
  };
  H2O_RETURN_IF_ERROR(ForLogitsOf(first_row, count, add));
  if (!out.rows.empty()) step->result.logprobs.push_back(std::move(out));
  return absl::OkStatus();
}

absl::Status StepReports::AddPromptTrace(const OpenSequence& sequence,
                                         StepInFlight* step) {
  Backend& backend = *parts_.backend;
  const int n = parts_.num_local_heads();
  const int stride = parts_.config.max_positions;
  std::vector<KvHead> heads(n);
  std::vector<uint16_t> stored(int64_t{n} * stride);
  H2O_RETURN_IF_ERROR(backend.Synchronize());
  for (int layer = 0; layer < parts_.config.num_layers; ++layer) {
    const KvHead* of_layer = parts_.cache->Heads(sequence.spec.id) + layer * n;
    backend.StoredPositions(of_layer, n, parts_.cache->pool(), stride,
                            parts_.workspace.stored);
    backend.Download(of_layer, n * sizeof(KvHead), heads.data());
    backend.Download(parts_.workspace.stored, stored.size() * sizeof(uint16_t),
                     stored.data());
    H2O_RETURN_IF_ERROR(backend.Synchronize());
    for (int h = 0; h < n; ++h) {
      HeadTrace trace = TraceOf(sequence, layer, h);
      const uint16_t* first = stored.data() + int64_t{h} * stride;
      trace.kept.assign(first, first + heads[h].num_slots);
      std::sort(trace.kept.begin(), trace.kept.end());
      step->result.trace.push_back(std::move(trace));
    }
  }
  return absl::OkStatus();
}

absl::Status StepReports::AddDecodeTrace(absl::Span<OpenSequence* const> rows,
                                         int64_t padded, StepInFlight* step) {
  Backend& backend = *parts_.backend;
  const int n = parts_.num_local_heads();
  std::vector<int32_t> evicted(parts_.config.num_layers * padded * n);
  std::vector<int32_t> positions(rows.size());
  H2O_RETURN_IF_ERROR(backend.Synchronize());
  backend.Download(parts_.workspace.evicted, evicted.size() * sizeof(int32_t),
                   evicted.data());
  backend.Download(parts_.workspace.positions,
                   positions.size() * sizeof(int32_t), positions.data());
  H2O_RETURN_IF_ERROR(backend.Synchronize());
  for (int layer = 0; layer < parts_.config.num_layers; ++layer) {
    for (size_t r = 0; r < rows.size(); ++r) {
      if (!rows[r]->spec.trace || positions[r] < 0) continue;
      for (int h = 0; h < n; ++h) {
        HeadTrace trace = TraceOf(*rows[r], layer, h);
        trace.pos = positions[r];
        trace.evicted = evicted[(layer * padded + r) * n + h];
        step->result.trace.push_back(std::move(trace));
      }
    }
  }
  return absl::OkStatus();
}

HeadTrace StepReports::TraceOf(const OpenSequence& sequence, int layer,
                               int local_head) const {
  HeadTrace trace;
  trace.sequence_id = sequence.spec.id;
  trace.layer = layer;
  trace.head = static_cast<int32_t>(parts_.shard.kv_heads.begin) + local_head;
  return trace;
}

}  // namespace h2o

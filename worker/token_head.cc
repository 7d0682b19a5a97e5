// From features to tokens; what is enqueued here is recorded in a decode step's
// CUDA graph, so it depends on the number of rows and on HeadNeeds alone.
#include "worker/token_head.h"

#include <vector>

#include "base/status_macros.h"

namespace h2o {

absl::Status TokenHead::Emit(Matrix features, const int32_t* seats,
                             HeadNeeds needs) {
  const StepWorkspace& w = parts_.workspace;
  const ShardSpec& shard = parts_.shard;
  Backend& backend = *parts_.backend;
  const int64_t rows = features.rows;
  const Matrix logits = parts_.forward->Logits(features);
  BestLogit* mine = w.best + shard.rank * rows;
  backend.ArgMax(logits, static_cast<int32_t>(shard.vocabulary.begin), mine);
  const std::vector<int64_t> bytes(shard.size, rows * sizeof(BestLogit));
  H2O_RETURN_IF_ERROR(parts_.communicator->AllGather(mine, bytes, w.best));
  backend.PickBest(w.best, shard.size, rows, w.next_tokens);
  if (needs.whole_logits) H2O_RETURN_IF_ERROR(GatherLogits(logits));
  if (needs.sampling) Choose(WholeLogits(rows), seats, needs);
  backend.Advance(w.states, seats, rows, w.next_tokens, w.results);
  backend.SumScores(w.states, seats, rows,
                    parts_.config.num_layers * parts_.num_local_heads(),
                    parts_.cache->pool(), w.results);
  if (needs.logprobs && ReportsLogprobs()) {
    backend.Logprobs(WholeLogits(rows), w.states, seats, w.results, w.logprobs);
  }
  return absl::OkStatus();
}

void TokenHead::Choose(Matrix logits, const int32_t* seats, HeadNeeds needs) {
  const StepWorkspace& w = parts_.workspace;
  Backend& backend = *parts_.backend;
  const Matrix undo = parts_.LogitUndoOf(logits.rows);
  if (needs.changes) {
    backend.ChangeLogits(logits, w.states, seats, w.next_tokens, undo);
  }
  backend.Sample(logits, w.states, seats, w.next_tokens);
  if (needs.changes) {
    backend.RestoreLogits(logits, w.states, seats, w.next_tokens, undo);
  }
}

void TokenHead::Fetch(absl::Span<OpenSequence* const> sequences,
                      StepInFlight* step) {
  const StepWorkspace& w = parts_.workspace;
  const int64_t rows = static_cast<int64_t>(sequences.size());
  const size_t first = step->emitted.size();
  bool logprobs = false;
  for (const OpenSequence* s : sequences) {
    const bool reports =
        s != nullptr && s->spec.top_logprobs >= 0 && ReportsLogprobs();
    logprobs |= reports;
    step->emitted.push_back(s == nullptr ? 0 : s->spec.id);
    step->reports_logprobs.push_back(reports);
  }
  parts_.backend->Download(w.results, rows * sizeof(RowResult),
                           RingOf(step->ring) + first);
  if (!logprobs) return;
  parts_.backend->Download(w.logprobs, rows * sizeof(LogprobRow),
                           LogprobRingOf(step->ring) + first);
}

// A step emits a prefill's tokens and a decode step's.
RowResult* TokenHead::RingOf(int ring) const {
  return parts_.workspace.fetched + int64_t{2} * parts_.max_sequences * ring;
}

LogprobRow* TokenHead::LogprobRingOf(int ring) const {
  return parts_.workspace.fetched_logprobs +
         int64_t{2} * parts_.max_sequences * ring;
}

Matrix TokenHead::WholeLogits(int64_t rows) const {
  if (parts_.shard.size == 1) return parts_.forward->LogitsOf(rows);
  const int32_t vocabulary = parts_.config.vocab_size;
  return {parts_.workspace.whole_logits, rows, vocabulary,
          AlignedStride(vocabulary)};
}

absl::Status TokenHead::GatherLogits(Matrix logits) {
  const ShardSpec& shard = parts_.shard;
  if (shard.size == 1) return absl::OkStatus();
  const int64_t rows = logits.rows;
  std::vector<int64_t> bytes(shard.size);
  float* const pieces = parts_.workspace.logit_pieces;
  float* mine = pieces;
  for (int rank = 0; rank < shard.size; ++rank) {
    const int64_t floats =
        rows * ShardOf(parts_.config.vocab_size, rank, shard.size).size();
    if (rank < shard.rank) mine += floats;
    bytes[rank] = floats * sizeof(float);
  }
  const int64_t local_bytes = shard.vocabulary.size() * sizeof(float);
  parts_.backend->CopyRows(logits.data, logits.stride * sizeof(float), mine,
                           local_bytes, local_bytes, rows);
  H2O_RETURN_IF_ERROR(parts_.communicator->AllGather(mine, bytes, pieces));
  JoinPieces(WholeLogits(rows));
  return absl::OkStatus();
}

void TokenHead::JoinPieces(Matrix whole) {
  const float* piece = parts_.workspace.logit_pieces;
  for (int rank = 0; rank < parts_.shard.size; ++rank) {
    const Range range =
        ShardOf(parts_.config.vocab_size, rank, parts_.shard.size);
    const int64_t row_bytes = range.size() * sizeof(float);
    parts_.backend->CopyRows(piece, row_bytes, whole.At(0, range.begin),
                             whole.stride * sizeof(float), row_bytes,
                             whole.rows);
    piece += whole.rows * range.size();
  }
}

}  // namespace h2o

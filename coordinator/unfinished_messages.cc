// Keeps the ledger of unfinished messages and names who owes too much.
#include "coordinator/unfinished_messages.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

// Frames and headers of a call beside its message.
constexpr int64_t kBesideMessage = 1024;

// What gRPC lets come ahead of a message that is being read.
constexpr int64_t kWindow = (1 << 20) + (64 << 10);

// The windows of streams whose message is not read yet.
constexpr int64_t kSlack = 1 << 20;

// Messages that come whole are not counted against all.
constexpr double kComing = 1;

}  // namespace

void UnfinishedMessages::Count(int connection, int64_t came, int64_t went,
                               double now) {
  const auto it = connections_.find(connection);
  if (it == connections_.end()) return;
  Connection& c = it->second;
  const int64_t owed = came - went - c.taken - c.forgiven;
  // A credit is not kept for later.
  const int64_t late = std::clamp<int64_t>(owed, 0, c.late);
  c.late -= late;
  c.forgiven += std::min<int64_t>(owed, 0) + late;
  c.unfinished = std::max<int64_t>(owed, 0) - late;
  if (c.unfinished <= kSmall) {
    c.since = -1;
  } else if (c.since < 0) {
    c.since = now;
  }
}

void UnfinishedMessages::Read(int connection, int change) {
  const auto it = connections_.find(connection);
  if (it != connections_.end()) it->second.reading += change;
}

void UnfinishedMessages::Take(int connection, int64_t bytes) {
  const auto it = connections_.find(connection);
  if (it == connections_.end()) return;
  Connection& c = it->second;
  c.taken += bytes + kBesideMessage;
  c.unfinished = std::max<int64_t>(c.unfinished - bytes - kBesideMessage, 0);
  c.since = -1;  // what is left belongs to later ones
}

bool UnfinishedMessages::IsSilent(int connection) const {
  const auto it = connections_.find(connection);
  return it != connections_.end() && it->second.taken == 0;
}

bool UnfinishedMessages::GiveUpReads(int connection, double now) {
  const auto it = connections_.find(connection);
  if (it == connections_.end()) return false;
  Connection& c = it->second;
  c.give_ups =
      std::min(kGiveUps, c.give_ups + (now - c.gave_up) * kGiveUpsASecond);
  c.gave_up = now;
  if (c.reading == 0 || c.give_ups < 1) return false;
  c.give_ups -= 1;
  c.forgiven += std::exchange(c.unfinished, 0);
  c.late += c.reading * kWindow;
  c.since = -1;
  return true;
}

std::vector<int> UnfinishedMessages::Owing() const {
  std::vector<int> owing;
  for (const auto& [id, c] : connections_) {
    if (c.unfinished > kSmall) owing.push_back(id);
  }
  return owing;
}

int64_t UnfinishedMessages::total() const {
  int64_t total = 0;
  for (const auto& [id, c] : connections_) total += c.unfinished;
  return total;
}

std::vector<UnfinishedMessages::Culprit> UnfinishedMessages::Culprits(
    double now) const {
  std::vector<Culprit> culprits;
  std::vector<std::pair<int64_t, int>> slow;  // bytes and connection
  int64_t total = 0;
  for (const auto& [id, c] : connections_) {
    total += c.unfinished;
    if (c.since < 0) continue;
    const int64_t most = (1 + c.reading) * limits_.message + kSlack;
    if (c.unfinished > most) {
      culprits.push_back(
          {id,
           absl::StrCat("it sent ", c.unfinished,
                        " bytes of messages without an end; at most ", most,
                        " are kept"),
           /*at_once=*/true});
    } else if (now - c.since > limits_.seconds) {
      culprits.push_back(
          {id, absl::StrCat("it sent ", c.unfinished,
                            " bytes of messages and no end of them within ",
                            limits_.seconds, " s")});
    } else {
      if (now - c.since > kComing) slow.emplace_back(c.unfinished, id);
      continue;
    }
    total -= c.unfinished;
  }
  std::sort(slow.rbegin(), slow.rend());
  for (const auto& [bytes, id] : slow) {
    if (total <= limits_.all) break;
    culprits.push_back(
        {id, absl::StrCat("it sent ", bytes,
                          " bytes of messages without an end, the most of all "
                          "connections, which together hold ",
                          total, "; at most ", limits_.all, " are kept")});
    total -= bytes;
  }
  return culprits;
}

}  // namespace h2o

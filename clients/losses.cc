// Decides which process of `serve` is to blame for a loss.
#include "clients/losses.h"

#include <sys/wait.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "flags/exit_code.h"

namespace h2o {
namespace {

// How long to wait for a report and for the end of the process that it names.
constexpr double kBlameSeconds = 1;

bool EndedNow(const Child& child) { return child.status && !child.reported; }

bool EndedBadlyNow(const Child& child) {
  return EndedNow(child) && !EndedInOrder(*child.status);
}

// Whether `text` speaks of the process.
bool Names(const std::string& text, const Child& child) {
  return absl::StrContains(text, absl::StrCat("pid ", child.pid, ")"));
}

template <typename Condition>
const Child* FirstOf(const std::vector<Child>& children, Condition condition) {
  const auto found = std::find_if(children.begin(), children.end(), condition);
  return found == children.end() ? nullptr : &*found;
}

}  // namespace

const Child* CulpritOf(const std::vector<Child>& children, const Loss& loss) {
  const Child* named = FirstOf(children, [&](const Child& child) {
    return EndedNow(child) && Names(loss.group, child);
  });
  if (named != nullptr) return named;
  const Child* killed = FirstOf(children, [](const Child& child) {
    return EndedBadlyNow(child) && WIFSIGNALED(*child.status);
  });
  if (killed != nullptr || !loss.group.empty()) return killed;
  const Child* bad = FirstOf(children, EndedBadlyNow);
  return bad != nullptr ? bad : FirstOf(children, EndedNow);
}

bool IsUnderstood(const std::vector<Child>& children, const Loss& loss,
                  double now) {
  if (EndedBadlyNow(children[0])) return true;
  const Child* culprit = CulpritOf(children, loss);
  const bool certain = culprit != nullptr && EndedBadlyNow(*culprit) &&
                       Names(loss.group, *culprit);
  return certain || now - loss.noticed > kBlameSeconds;
}

std::string Describe(const std::vector<Child>& children, const Loss& loss) {
  const Child* culprit = CulpritOf(children, loss);
  if (culprit == nullptr) return loss.group;
  return absl::StrCat(loss.group, loss.group.empty() ? "" : "; ",
                      HowItEnded(*culprit));
}

absl::Status StatusOf(const std::vector<Child>& children, const Loss& loss) {
  const Child* culprit = CulpritOf(children, loss);
  const bool bad_input = culprit != nullptr && WIFEXITED(*culprit->status) &&
                         WEXITSTATUS(*culprit->status) == kBadInput;
  const std::string text = Describe(children, loss);
  return bad_input ? absl::InvalidArgumentError(text)
                   : absl::UnavailableError(text);
}

absl::Status EndOfStop(const std::vector<Child>& children, bool told_twice) {
  for (const Child& child : children) {
    if (!child.status) {
      return absl::DeadlineExceededError(absl::StrCat(
          child.name, told_twice ? " was killed at the second signal"
                                 : " did not stop in time"));
    }
    // A worker may learn of the coordinator's end by its stream alone.
    const bool follows = EndedInOrder(*children[0].status) &&
                         WIFEXITED(*child.status) &&
                         WEXITSTATUS(*child.status) == kCoordinatorLost;
    if (EndedBadlyNow(child) && !follows) {
      return absl::UnavailableError(
          absl::StrCat(HowItEnded(child), " while it was to stop"));
    }
  }
  return absl::OkStatus();
}

bool AllEndedInOrder(const std::vector<Child>& children) {
  return std::none_of(children.begin(), children.end(), EndedBadlyNow);
}

int UsableWorkers(const std::vector<Child>& children) {
  return static_cast<int>(std::count_if(
      children.begin() + 1, children.end(),
      [](const Child& child) { return !child.status && !child.lost_at; }));
}

}  // namespace h2o

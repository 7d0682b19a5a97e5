// Forks the ranks, each with a socket and a listener of its own.
#include "embedded/forked_ranks.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"
#include "base/status_macros.h"
#include "embedded/step_pipe.h"
#include "parallel/host_communicator.h"

namespace h2o {
namespace {

[[noreturn]] void Live(ForkedRanks::Life life, pid_t parent, int fd,
                       MeshListener listener, const MeshOptions& mesh) {
  // Ctrl-C in the terminal goes to the parent alone.  When the parent ends, in
  // whatever way, this process is killed.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  const absl::Status status = life(fd, std::move(listener), mesh);
  if (status.ok()) _exit(0);
  WriteNews(fd, RankFailure{status}).IgnoreError();
  _exit(1);
}

}  // namespace

absl::Status ForkedRanks::Fork(int size, Life life) {
  MeshOptions mesh;
  mesh.size = size;
  mesh.host_ids.assign(size, ThisHostId());
  mesh.nonce = RandomBits64();
  mesh.secret = RandomBytes(kMeshSecretBytes);
  std::vector<MeshListener> listeners;
  std::vector<UniqueFd> their_ends;
  for (int rank = 0; rank < size; ++rank) {
    H2O_ASSIGN_OR_RETURN(MeshListener listener,
                         MeshListener::Bind("127.0.0.1:0"));
    mesh.addresses.push_back(listener.address());
    listeners.push_back(std::move(listener));
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no sockets for rank ", rank, ": ", strerror(errno)));
    }
    sockets_.emplace_back(ends[0]);
    their_ends.emplace_back(ends[1]);
  }
  const pid_t parent = getpid();
  for (int rank = 0; rank < size; ++rank) {
    const pid_t pid = fork();
    if (pid < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no process for rank ", rank, ": ", strerror(errno)));
    }
    if (pid == 0) {
      const UniqueFd mine = std::move(their_ends[rank]);
      MeshListener listener = std::move(listeners[rank]);
      sockets_.clear();
      their_ends.clear();
      listeners.clear();
      mesh.rank = rank;
      Live(life, parent, mine.get(), std::move(listener), mesh);
    }
    pids_.push_back(pid);
  }
  return absl::OkStatus();
}

void ForkedRanks::Kill() const {
  for (pid_t pid : pids_) kill(pid, SIGKILL);
}

ForkedRanks::~ForkedRanks() {
  Kill();
  for (pid_t pid : pids_) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

}  // namespace h2o

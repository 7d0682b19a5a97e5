// Lets the ranks of a group agree on shared memory or TCP.
#include "parallel/host_communicator.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/running_clock.h"
#include "base/status_macros.h"
#include "parallel/shm_communicator.h"
#include "parallel/solo_communicator.h"
#include "parallel/tcp_communicator.h"

namespace h2o {
namespace {

// Rank 0 offers a segment, or none.  Every other rank answers whether it has
// mapped it.  Rank 0 then tells all whether every rank has.
struct Offer {
  uint32_t exists = 0;
  char name[60] = {};
};
using Answer = uint32_t;  // 1: yes

class Agreement {
 public:
  Agreement(const Mesh& mesh, const MeshOptions& options)
      : mesh_(mesh),
        options_(options),
        deadline_(clock_.Now() + options.connect_timeout_seconds) {}

  // The segment that all ranks have mapped, or none on every rank.
  absl::StatusOr<std::optional<ShmSegment>> Run() {
    return options_.rank == 0 ? Lead() : Follow();
  }

 private:
  bool OneHost() const {
    return !options_.tcp_only &&
           std::all_of(options_.host_ids.begin(), options_.host_ids.end(),
                       [&](const std::string& id) {
                         return id == options_.host_ids[0];
                       });
  }

  absl::StatusOr<std::optional<ShmSegment>> Lead() {
    std::optional<ShmSegment> segment;
    if (OneHost()) {
      // Missing shared memory is not an error: TCP is used instead.
      auto created = ShmSegment::Create(options_.size, options_.nonce);
      if (created.ok()) segment.emplace(*std::move(created));
    }
    Offer offer;
    if (segment.has_value()) {
      offer.exists = 1;
      segment->name().copy(offer.name, sizeof(offer.name) - 1);
    }
    for (int k = 1; k < options_.size; ++k) {
      H2O_RETURN_IF_ERROR(Send(k, &offer, sizeof(offer)));
    }
    Answer all = offer.exists;
    for (int k = 1; k < options_.size; ++k) {
      Answer mapped = 0;
      H2O_RETURN_IF_ERROR(Receive(k, &mapped, sizeof(mapped)));
      all &= mapped;
    }
    for (int k = 1; k < options_.size; ++k) {
      H2O_RETURN_IF_ERROR(Send(k, &all, sizeof(all)));
    }
    if (segment.has_value()) segment->Unlink();
    if (all != 1) segment.reset();
    return segment;
  }

  absl::StatusOr<std::optional<ShmSegment>> Follow() {
    Offer offer;
    H2O_RETURN_IF_ERROR(Receive(0, &offer, sizeof(offer)));
    offer.name[sizeof(offer.name) - 1] = '\0';
    std::optional<ShmSegment> segment;
    if (offer.exists == 1 && OneHost()) {
      auto opened = ShmSegment::Open(offer.name, options_.size, options_.nonce);
      if (opened.ok()) segment.emplace(*std::move(opened));
    }
    const Answer mapped = segment.has_value();
    H2O_RETURN_IF_ERROR(Send(0, &mapped, sizeof(mapped)));
    Answer all = 0;
    H2O_RETURN_IF_ERROR(Receive(0, &all, sizeof(all)));
    if (all != 1) segment.reset();
    return segment;
  }

  absl::Status Wait(int k, short events) {
    const double left = deadline_ - clock_.Now();
    if (left <= 0) {
      return absl::UnavailableError(absl::StrCat(
          "rank ", options_.rank, " waited ", options_.connect_timeout_seconds,
          " s for ", mesh_.NameOf(k), " to agree on shared memory"));
    }
    pollfd one = {mesh_.sockets[k].get(), events, 0};
    poll(&one, 1,
         static_cast<int>(
             std::ceil(std::min(left, RunningClock::kLookSeconds) * 1e3)));
    return absl::OkStatus();
  }

  absl::Status Lost(int k) {
    return absl::UnavailableError(
        absl::StrCat(mesh_.NameOf(k), " closed its connection to rank ",
                     options_.rank, " while the group formed"));
  }

  absl::Status Send(int k, const void* data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
      const ssize_t n =
          send(mesh_.sockets[k].get(), static_cast<const char*>(data) + done,
               bytes - done, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) {
        done += n;
      } else if (errno == EAGAIN || errno == EINTR) {
        H2O_RETURN_IF_ERROR(Wait(k, POLLOUT));
      } else {
        return Lost(k);
      }
    }
    return absl::OkStatus();
  }

  absl::Status Receive(int k, void* data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
      const ssize_t n =
          recv(mesh_.sockets[k].get(), static_cast<char*>(data) + done,
               bytes - done, MSG_DONTWAIT);
      if (n > 0) {
        done += n;
      } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        H2O_RETURN_IF_ERROR(Wait(k, POLLIN));
      } else {
        return Lost(k);
      }
    }
    return absl::OkStatus();
  }

  const Mesh& mesh_;
  const MeshOptions& options_;
  const SteadyClock steady_;
  const RunningClock clock_{&steady_};
  const double deadline_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectMesh(
    MeshListener listener, const MeshOptions& options) {
  H2O_ASSIGN_OR_RETURN(Mesh mesh, FormMesh(std::move(listener), options));
  if (options.size == 1) return std::make_unique<SoloCommunicator>();
  H2O_ASSIGN_OR_RETURN(std::optional<ShmSegment> segment,
                       Agreement(mesh, options).Run());
  if (segment.has_value()) {
    return MakeShmCommunicator(*std::move(segment), std::move(mesh), options);
  }
  return MakeTcpCommunicator(std::move(mesh), options);
}

std::string ThisHostId() {
  std::string boot_id = "unknown boot";
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  struct stat shm;
  if (stat("/dev/shm", &shm) != 0) {
    // Without /dev/shm nothing can be shared: use an id that no other rank has.
    return absl::StrCat(boot_id, "/", getpid());
  }
  return absl::StrCat(boot_id, "/", shm.st_dev, ":", shm.st_ino);
}

}  // namespace h2o

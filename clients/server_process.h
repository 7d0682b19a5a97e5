// A server of this host for one command: `h2oserve serve` as a child process.
//
// Threads  one, and one of its own that reads the server's log.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "clients/child_process.h"

namespace h2o {

class ServerProcess {
 public:
  // Starts `serve` with these flags, on free ports of this host, and waits
  // until it serves or `stop` says so. Errors: INVALID_ARGUMENT with the
  // server's last words if it refuses its flags, UNAVAILABLE with them if it
  // ends otherwise, CANCELLED.
  static absl::StatusOr<std::unique_ptr<ServerProcess>> Start(
      const std::vector<std::string>& flags, const std::function<bool()>& stop);

  // Stops it, and waits for its end.
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  const std::string& url() const { return url_; }  // http://HOST:PORT

 private:
  ServerProcess() = default;
  absl::Status WaitUntilReady(const std::function<bool()>& stop);
  // Waits a moment for what it says, and takes it.
  void Listen();
  bool HasEnded();

  Child child_;
  std::string url_;
  std::thread reader_;  // of the log, once it serves
};

}  // namespace h2o

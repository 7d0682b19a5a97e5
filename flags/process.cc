// Turns signals and exceptions that would end a program without a word into an
// error message and exit status 1.
#include "flags/process.h"

#include <openssl/crypto.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <latch>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"

namespace h2o {
namespace {

// When memory is short several threads fail at once; the first one says so.
[[noreturn]] void EndWith(const char* text) {
  static std::atomic_flag said;
  if (said.test_and_set()) {
    while (true) pause();
  }
  LogInDistress(text);
  _exit(1);
}

void OnBusError(int) {
  EndWith(
      "DATA_LOSS: a file of the model shrank, or could not be read, while it "
      "was loaded");
}

// Whether the system grants no more memory or no more threads.
bool IsShort() {
  constexpr size_t kProbe = 16 << 20;  // more than the stack of a thread
  void* const memory = mmap(nullptr, kProbe, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return true;
  munmap(memory, kProbe);
  // As fork, but without what libraries do at a fork.
  const long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) _exit(0);
  return pid < 0;
}

// gRPC and the C library abort where they get no memory or no thread.  Any
// other abort goes on after this handler.
void OnAbort(int) {
  if (!IsShort()) return;
  EndWith(
      "RESOURCE_EXHAUSTED: the system grants no more memory or threads (ulimit "
      "-v, ulimit -u, the control group's limits)");
}

// An exception that nothing catches, in any thread.
[[noreturn]] void OnTerminate() {
  char text[256] = "";
  try {
    if (const std::exception_ptr thrown = std::current_exception()) {
      std::rethrow_exception(thrown);
    }
  } catch (const std::bad_alloc&) {
    EndWith(
        "RESOURCE_EXHAUSTED: the system grants no more memory (ulimit -v, the "
        "control group's limit)");
  } catch (const std::system_error& error) {
    std::snprintf(text, sizeof(text),
                  "RESOURCE_EXHAUSTED: the system grants no more threads, or "
                  "another resource: %s (ulimit -u, ulimit -v, the control "
                  "group's limits)",
                  error.what());
    EndWith(text);
  } catch (const std::exception& error) {
    std::snprintf(text, sizeof(text), "%s", error.what());
  } catch (...) {
    std::snprintf(text, sizeof(text), "an exception of unknown kind");
  }
  if (*text != 0) LogInDistress(text);
  std::abort();  // a fault of ours
}

}  // namespace

void PrepareProcess() {
  SetLogFormat(LogFormat::kText);  // makes the log while there is memory
  struct sigaction action = {};
  action.sa_handler = OnBusError;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
  action.sa_handler = OnAbort;
  sigaction(SIGABRT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  std::set_terminate(OnTerminate);
  // Distributions build Abseil so that each lock of gRPC looks for deadlocks,
  // which takes 5 % of a coordinator's time.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // At exit OpenSSL would free locks that gRPC's threads still take, as in a
  // handshake that fails.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
}

absl::Status CheckThreads(int count) {
  std::vector<std::thread> threads;
  std::latch end(1);
  absl::Status status;
  try {
    while (static_cast<int>(threads.size()) < count) {
      threads.emplace_back([&end] { end.wait(); });
    }
  } catch (const std::system_error&) {
    status = absl::ResourceExhaustedError(absl::StrCat(
        "the system grants ", threads.size(), " threads; at least ", count,
        " are needed (ulimit -u, ulimit -v, the control group's limits)"));
  }
  end.count_down();
  for (std::thread& thread : threads) thread.join();
  return status;
}

}  // namespace h2o

// Ends of programs that are no Status: each is one line, and an exit code.
#include "flags/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "absl/status/status.h"
#include "flags/exit_code.h"

namespace h2o {
namespace {

// Sanitizers need memory themselves.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCanBeShort = false;
#else
constexpr bool kCanBeShort = true;
#endif

// Reads a mapped file behind its new end.
int ReadWhatIsGone() {
  const std::string path = ::testing::TempDir() + "/mapped";
  std::ofstream(path) << std::string(1 << 16, 'x');
  const int fd = open(path.c_str(), O_RDWR);
  const volatile char* data =
      static_cast<char*>(mmap(nullptr, 1 << 16, PROT_READ, MAP_SHARED, fd, 0));
  if (ftruncate(fd, 0) != 0) return 0;
  return data[1 << 15];
}

TEST(PrepareProcess, AFileThatShrank) {
  EXPECT_EXIT(
      {
        PrepareProcess();
        _exit(ReadWhatIsGone());
      },
      ::testing::ExitedWithCode(1), "DATA_LOSS: a file of the model shrank");
}

template <typename Exception>
void ThrowInAThread(const Exception& exception) {
  PrepareProcess();
  std::thread([&] { throw exception; }).join();
}

TEST(PrepareProcess, NoMemory) {
  EXPECT_EXIT(ThrowInAThread(std::bad_alloc()), ::testing::ExitedWithCode(1),
              "^process_test: RESOURCE_EXHAUSTED: .* memory");
}

TEST(PrepareProcess, NoThreads) {
  const auto error = std::errc::resource_unavailable_try_again;
  EXPECT_EXIT(ThrowInAThread(std::system_error(std::make_error_code(error))),
              ::testing::ExitedWithCode(1),
              "^process_test: RESOURCE_EXHAUSTED: .* threads");
}

TEST(PrepareProcess, ALibraryThatAbortsForWantOfMemory) {
  if (!kCanBeShort) GTEST_SKIP();
  EXPECT_EXIT(
      {
        PrepareProcess();
        const rlimit none{};
        setrlimit(RLIMIT_AS, &none);
        std::abort();
      },
      ::testing::ExitedWithCode(1),
      "^process_test: RESOURCE_EXHAUSTED: .* memory");
}

TEST(CheckThreads, SaysHowManyThereAre) {
  EXPECT_TRUE(CheckThreads(8).ok());
  if (!kCanBeShort) GTEST_SKIP();
  EXPECT_EXIT(
      {
        const rlimit none{};
        setrlimit(RLIMIT_AS, &none);
        const absl::Status status = CheckThreads(100);
        std::fprintf(stderr, "%s", std::string(status.message()).c_str());
        _exit(absl::IsResourceExhausted(status) ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "grants [0-9]+ threads; at least 100");
}

TEST(PrepareProcess, AnyOtherAbortIsAnAbort) {
  EXPECT_EXIT(
      {
        PrepareProcess();
        std::abort();
      },
      ::testing::KilledBySignal(SIGABRT), "^$");
}

TEST(PrepareProcess, AnyOtherExceptionIsAFaultOfOurs) {
  EXPECT_EXIT(ThrowInAThread(std::logic_error("ours")),
              ::testing::KilledBySignal(SIGABRT), "^process_test: ours");
}

TEST(PrepareProcess, AReaderThatIsGoneEndsNothing) {
  EXPECT_EXIT(
      {
        PrepareProcess();
        int fds[2];
        if (pipe(fds) != 0) _exit(2);
        close(fds[0]);
        _exit(write(fds[1], "x", 1) < 0 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(ExitCodeFor, BadInputIsTwoAndFaultsAreOne) {
  EXPECT_EQ(ExitCodeFor(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeFor(absl::InvalidArgumentError("--seed -1")), 2);
  EXPECT_EQ(ExitCodeFor(absl::NotFoundError("no model directory")), 2);
  EXPECT_EQ(ExitCodeFor(absl::DataLossError("torn")), 1);
  EXPECT_EQ(ExitCodeFor(absl::UnavailableError("rank 1 is gone")), 1);
}

}  // namespace
}  // namespace h2o

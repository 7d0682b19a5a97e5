// Tests which certificates are used, whom CAs vouch for, and that files of TLS
// are taken whole.
#include "access/certificates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "access/tls_files.h"
#include "tests/access/new_certificate.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

std::string ProblemOf(const std::string& chain, const std::string& key,
                      int64_t later = 0) {
  const absl::Status status =
      CheckCertificate(chain, key, time(nullptr) + later).status();
  return std::string(status.message());
}

TEST(CertificatesTest, AWholePairTellsWhenItExpires) {
  const NewCertificate ca = MakeCertificate("ca");
  const NewCertificate server = MakeCertificate("server", &ca, -60, 7200);
  const auto alone =
      CheckCertificate(server.pem, server.key_pem, time(nullptr));
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_NEAR(static_cast<double>(*alone - time(nullptr)), 7200, 5);
  // That of the chain's first end.
  const auto chain =
      CheckCertificate(server.pem + ca.pem, server.key_pem, time(nullptr));
  ASSERT_TRUE(chain.ok()) << chain.status();
  EXPECT_NEAR(static_cast<double>(*chain - time(nullptr)), 3600, 5);
}

TEST(CertificatesTest, WhatCannotBeShownIsRefused) {
  const NewCertificate ca = MakeCertificate("ca");
  const NewCertificate a = MakeCertificate("a", &ca);
  const NewCertificate b = MakeCertificate("b", &ca);
  EXPECT_THAT(ProblemOf(a.pem, b.key_pem), HasSubstr("another certificate"));
  EXPECT_THAT(ProblemOf(a.pem, ""), HasSubstr("no private key"));
  EXPECT_THAT(ProblemOf(a.pem, a.key_pem.substr(0, 100)),
              HasSubstr("no private key"));
  EXPECT_THAT(ProblemOf("", a.key_pem), HasSubstr("no certificate"));
  EXPECT_THAT(ProblemOf("nonsense", a.key_pem), HasSubstr("no certificate"));
  EXPECT_THAT(ProblemOf(a.pem.substr(0, a.pem.size() / 2), a.key_pem),
              HasSubstr("torn"));
  EXPECT_THAT(ProblemOf(a.pem + b.pem, a.key_pem), HasSubstr("out of order"));
  EXPECT_THAT(ProblemOf(a.pem, a.key_pem, 4000), HasSubstr("has expired"));
  EXPECT_THAT(ProblemOf(a.pem, a.key_pem, -4000), HasSubstr("not valid yet"));
}

TEST(CertificatesTest, CasVouchForWhatTheyIssued) {
  const NewCertificate ca = MakeCertificate("ca");
  const NewCertificate other = MakeCertificate("ca");  // of the same name
  const auto issuers = Issuers::Parse(ca.pem);
  ASSERT_TRUE(issuers.ok());
  EXPECT_TRUE((*issuers)->Vouch(MakeCertificate("a", &ca).pem));
  EXPECT_FALSE((*issuers)->Vouch(MakeCertificate("a", &other).pem));
  EXPECT_FALSE((*issuers)->Vouch(MakeCertificate("a", &ca, -99, -9).pem));
  EXPECT_FALSE((*issuers)->Vouch(MakeCertificate("a").pem));
  EXPECT_FALSE((*issuers)->Vouch(""));
  EXPECT_FALSE((*issuers)->Vouch("nonsense"));
  EXPECT_FALSE(Issuers::Parse("").ok());
  const NewCertificate third = MakeCertificate("third");
  const auto both = Issuers::Parse(ca.pem + third.pem);
  ASSERT_TRUE(both.ok());
  EXPECT_TRUE((*both)->Vouch(MakeCertificate("a", &third).pem));
}

TEST(TlsFilesTest, ATornPairChangesNothing) {
  const TempDirectory folder;
  const NewCertificate ca = MakeCertificate("ca");
  const NewCertificate one = MakeCertificate("one", &ca);
  const NewCertificate two = MakeCertificate("two", &ca);
  const TlsPaths paths = {.certificate = folder.Write("cert", one.pem),
                          .key = folder.Write("key", one.key_pem),
                          .peer_ca = folder.Write("ca", ca.pem),
                          .worker_ca = ""};
  auto files = TlsFiles::Load(paths, 0.01);
  ASSERT_TRUE(files.ok()) << files.status();
  std::mutex mutex;
  std::vector<std::string> seen;
  (*files)->Watch([&](const TlsState& state) {
    std::lock_guard lock(mutex);
    seen.push_back(state.chain);
  });
  testing::internal::CaptureStderr();
  folder.Write("key", two.key_pem);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ((*files)->state()->chain, one.pem);
  folder.Write("cert", two.pem);
  for (int i = 0; i < 1000 && (*files)->state()->chain != two.pem; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ((*files)->state()->key, two.key_pem);
  (*files)->StopWatching();
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(seen, std::vector<std::string>{two.pem});
}

TEST(TlsFilesTest, ABadFileAtTheStartIsNamed) {
  const TempDirectory folder;
  const absl::Status status =
      TlsFiles::Load({.certificate = "",
                      .key = "",
                      .peer_ca = folder.Write("ca", "x"),
                      .worker_ca = ""})
          .status();
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder.File("ca")));
}

}  // namespace
}  // namespace h2o

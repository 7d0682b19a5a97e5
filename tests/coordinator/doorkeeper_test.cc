// Tests who is let in, and that refusals are counted.
#include "coordinator/doorkeeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/access/new_certificate.h"
#include "tests/model/small_config.h"
#include "tests/model/temp_directory.h"

namespace h2o {
namespace {

using Workers = DoorkeeperOptions::Workers;

class DoorkeeperTest : public ::testing::Test {
 protected:
  void Start(DoorkeeperOptions options) {
    engine_ = Engine::Create({}, SmallConfig(), nullptr, &clock_).value();
    keeper_ = std::make_unique<Doorkeeper>(std::move(options), engine_.get(),
                                           &clock_);
  }
  void StartWithKeys(DoorkeeperOptions options = {}) {
    const std::string rows =
        absl::StrCat(KeyRowJson("plain", {.name = "plain"}), ",",
                     KeyRowJson("admin", {.name = "admin", .admin = true}), ",",
                     KeyRowJson("m", {.name = "m", .models = {"m"}}), ",",
                     KeyRowJson("n", {.name = "n", .models = {"n"}}));
    keys_ = Keys::Load(
                folder_.Write("keys", absl::StrCat("{\"keys\": [", rows, "]}")))
                .value();
    options.keys = keys_.get();
    options.model_names = {"m"};
    Start(std::move(options));
  }
  absl::StatusCode Ask(Right right, const std::string& key,
                       std::optional<std::string> certificate = {}) {
    const std::string authorization =
        key.empty() ? "" : absl::StrCat("Bearer ", key);
    const auto tenant =
        keeper_->Admit(right, {.peer = "ipv4:10.0.0.1:5",
                               .authorization = authorization,
                               .asks_for = "x",
                               .certificate = std::move(certificate)});
    if (tenant.ok() && *tenant != nullptr) {
      EXPECT_EQ((*tenant)->name, key);
    }
    return tenant.status().code();
  }
  bool MayJoin(const std::string& peer, std::optional<std::string> shown) {
    return keeper_
        ->AdmitWorker({.peer = peer,
                       .authorization = {},
                       .asks_for = "Join",
                       .certificate = std::move(shown)})
        .ok();
  }
  int64_t Refused(Refusal reason) const {
    return engine_->counters().refused_for[static_cast<size_t>(reason)];
  }

  const TempDirectory folder_;
  const SteadyClock clock_;
  std::unique_ptr<Keys> keys_;
  std::unique_ptr<TlsFiles> tls_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Doorkeeper> keeper_;
};

constexpr auto kOk = absl::StatusCode::kOk;
constexpr auto kNoKey = absl::StatusCode::kUnauthenticated;
constexpr auto kForbidden = absl::StatusCode::kPermissionDenied;

TEST_F(DoorkeeperTest, WithoutKeysEverybodyMayDoAll) {
  Start({});
  for (Right right :
       {Right::kNone, Right::kKey, Right::kModel, Right::kAdmin}) {
    EXPECT_EQ(Ask(right, ""), kOk);
  }
  EXPECT_TRUE(MayJoin("ipv4:10.0.0.1:5", ""));
}

TEST_F(DoorkeeperTest, AKeyHasItsRights) {
  StartWithKeys();
  EXPECT_EQ(Ask(Right::kNone, ""), kOk);
  EXPECT_EQ(Ask(Right::kKey, ""), kNoKey);
  EXPECT_EQ(Ask(Right::kKey, "wrong"), kNoKey);
  EXPECT_EQ(Refused(Refusal::kUnauthenticated), 2);
  EXPECT_EQ(Ask(Right::kKey, "plain"), kOk);
  EXPECT_EQ(Ask(Right::kModel, "plain"), kOk);
  EXPECT_EQ(Ask(Right::kModel, "m"), kOk);
  EXPECT_EQ(Ask(Right::kKey, "n"), kOk);
  EXPECT_EQ(Ask(Right::kModel, "n"), kForbidden);
  EXPECT_EQ(Ask(Right::kAdmin, "plain"), kForbidden);
  EXPECT_EQ(Ask(Right::kAdmin, "admin"), kOk);
  EXPECT_EQ(Refused(Refusal::kForbidden), 2);
}

TEST_F(DoorkeeperTest, WhereClientsProveThemselvesOtherHostsWorkersMustToo) {
  StartWithKeys({.workers = Workers::kOfThisHost});
  EXPECT_TRUE(MayJoin("ipv4:127.0.0.1:5", ""));
  EXPECT_TRUE(MayJoin("ipv6:%5B::1%5D:5", ""));
  EXPECT_FALSE(MayJoin("ipv4:10.0.0.1:5", ""));
  EXPECT_EQ(Refused(Refusal::kWorker), 1);
  StartWithKeys({.workers = Workers::kOfTheSocket});
  EXPECT_FALSE(MayJoin("ipv4:127.0.0.1:5", ""));
  EXPECT_TRUE(MayJoin("unix:", std::nullopt));
}

TEST_F(DoorkeeperTest, CertificatesOfClientsAndWorkersAreNoSubstitutes) {
  const NewCertificate clients = MakeCertificate("clients");
  const NewCertificate workers = MakeCertificate("workers");
  const std::string client = MakeCertificate("c", &clients).pem;
  const std::string worker = MakeCertificate("w", &workers).pem;
  tls_ = TlsFiles::Load({.certificate = "",
                         .key = "",
                         .peer_ca = folder_.Write("c", clients.pem),
                         .worker_ca = folder_.Write("w", workers.pem)})
             .value();
  StartWithKeys({.tls = tls_.get(), .workers = Workers::kOfTheSocket});
  EXPECT_EQ(Ask(Right::kKey, "plain", client), kOk);
  EXPECT_EQ(Ask(Right::kKey, "", client), kNoKey);
  EXPECT_EQ(Ask(Right::kKey, "plain", worker), kNoKey);
  EXPECT_EQ(Ask(Right::kKey, "plain", ""), kNoKey);
  EXPECT_EQ(Ask(Right::kKey, "plain", std::nullopt), kOk);  // HTTP
  EXPECT_EQ(Ask(Right::kNone, "", ""), kOk);
  EXPECT_TRUE(MayJoin("ipv4:10.0.0.1:5", worker));
  EXPECT_FALSE(MayJoin("ipv4:10.0.0.1:5", client));
  EXPECT_FALSE(MayJoin("ipv4:127.0.0.1:5", ""));
}

}  // namespace
}  // namespace h2o

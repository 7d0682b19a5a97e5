// A server of the public interface in this process, whose answers a test
// writes.
#pragma once

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "proto/inference.grpc.pb.h"

namespace h2o {

class FakeServer final : public h2oserve::v1::Inference::Service,
                         public h2oserve::v1::Admin::Service {
  using Writer = grpc::ServerWriter<h2oserve::v1::GenerateResponse>;

 public:
  // Answers one call.
  using Answer = std::function<grpc::Status(grpc::ServerContext*, Writer*)>;

  // Calls get these answers in turn; the last one again and again.
  explicit FakeServer(std::vector<Answer> answers,
                      std::shared_ptr<grpc::ServerCredentials> credentials =
                          grpc::InsecureServerCredentials())
      : answers_(std::move(answers)) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port);
    builder.RegisterService(
        static_cast<h2oserve::v1::Inference::Service*>(this));
    builder.RegisterService(static_cast<h2oserve::v1::Admin::Service*>(this));
    server_ = builder.BuildAndStart();
    address_ = "localhost:" + std::to_string(port);
  }
  ~FakeServer() override {
    server_->Shutdown(std::chrono::system_clock::now());
  }

  const std::string& address() const { return address_; }
  // What came so far.
  std::vector<h2oserve::v1::GenerateRequest> requests() const {
    std::lock_guard lock(mutex_);
    return requests_;
  }
  // The `authorization` of the last call.
  std::string authorization() const {
    std::lock_guard lock(mutex_);
    return authorization_;
  }
  void SetReady(bool ready) {
    server_->GetHealthCheckService()->SetServingStatus(ready);
  }

  grpc::Status Generate(grpc::ServerContext* context,
                        const h2oserve::v1::GenerateRequest* request,
                        Writer* writer) override {
    return NextAnswer(*context, *request)(context, writer);
  }

  // Fails as Generate does; else answers.
  grpc::Status GetModelInfo(grpc::ServerContext* context,
                            const h2oserve::v1::GetModelInfoRequest*,
                            h2oserve::v1::ModelInfo* info) override {
    info->set_name("opt-demo");
    info->set_num_layers(4);
    info->set_kv_pool_bytes(int64_t{1} << 40);
    return NextAnswer(*context, {})(context, nullptr);
  }
  grpc::Status CheckAdmission(grpc::ServerContext* context,
                              const h2oserve::v1::GenerateRequest* request,
                              h2oserve::v1::AdmissionAnswer* answer) override {
    answer->set_retry_after_seconds(1.5);
    answer->set_pages(12);
    answer->set_reason("the queue is full");
    return NextAnswer(*context, *request)(context, nullptr);
  }
  grpc::Status Tokenize(grpc::ServerContext*,
                        const h2oserve::v1::TokenizeRequest* request,
                        h2oserve::v1::TokenizeResponse* response) override {
    if (request->add_special_tokens()) response->add_ids(2);
    for (const char c : request->text()) response->add_ids(c);
    return grpc::Status::OK;
  }
  grpc::Status Detokenize(grpc::ServerContext*,
                          const h2oserve::v1::DetokenizeRequest* request,
                          h2oserve::v1::DetokenizeResponse* response) override {
    for (const int32_t id : request->ids()) {
      response->mutable_text()->push_back(static_cast<char>(id));
    }
    return grpc::Status::OK;
  }
  grpc::Status GetStatus(grpc::ServerContext* context,
                         const h2oserve::v1::GetStatusRequest*,
                         h2oserve::v1::Status* status) override {
    status->set_json("{\"groups\":[]}");
    return NextAnswer(*context, {})(context, nullptr);
  }
  grpc::Status Drain(grpc::ServerContext*,
                     const h2oserve::v1::DrainRequest* request,
                     h2oserve::v1::DrainResponse*) override {
    if (request->group() == 0) return grpc::Status::OK;
    return {grpc::StatusCode::NOT_FOUND,
            "no group " + std::to_string(request->group())};
  }

 private:
  Answer NextAnswer(const grpc::ServerContext& context,
                    const h2oserve::v1::GenerateRequest& request) {
    std::lock_guard lock(mutex_);
    const auto key = context.client_metadata().find("authorization");
    authorization_.clear();
    if (key != context.client_metadata().end()) {
      authorization_.assign(key->second.data(), key->second.size());
    }
    const size_t i = std::min(requests_.size(), answers_.size() - 1);
    requests_.push_back(request);
    return answers_[i];
  }

  const std::vector<Answer> answers_;
  std::string address_;
  mutable std::mutex mutex_;  // guards the next two
  std::vector<h2oserve::v1::GenerateRequest> requests_;
  std::string authorization_;
  std::unique_ptr<grpc::Server> server_;  // last: its threads use the rest
};

}  // namespace h2o

// The gRPC service behind AdminService.
#include "coordinator/admin_service.h"

#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_callback.h>

#include <utility>

#include "coordinator/grpc_visitor.h"
#include "proto/grpc_status.h"
#include "proto/inference.grpc.pb.h"

namespace h2o {

namespace v1 = h2oserve::v1;

class AdminService::Impl final : public v1::Admin::CallbackService {
 public:
  explicit Impl(AdminServiceOptions options) : options_(std::move(options)) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* /*request*/,
                                      v1::Status* status) override {
    const absl::Status admitted = Admit(context, "GetStatus");
    if (admitted.ok()) status->set_json(options_.status());
    return Finished(context, admitted);
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* /*response*/) override {
    absl::Status status = Admit(context, "Drain");
    if (status.ok()) status = options_.drain(request->group());
    return Finished(context, status);
  }

 private:
  absl::Status Admit(grpc::CallbackServerContext* context,
                     std::string_view method) const {
    if (options_.keeper == nullptr) return absl::OkStatus();
    return options_.keeper
        ->Admit(
            Right::kAdmin,
            VisitorOf(*context, method, options_.keeper->checks_certificates()))
        .status();
  }

  static grpc::ServerUnaryReactor* Finished(
      grpc::CallbackServerContext* context, const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  const AdminServiceOptions options_;
};

AdminService::AdminService(AdminServiceOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}
AdminService::~AdminService() = default;
void AdminService::AddTo(grpc::ServerBuilder* builder) {
  builder->RegisterService(impl_.get());
}

}  // namespace h2o

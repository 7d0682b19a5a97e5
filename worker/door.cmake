# The worker's door; gRPC's headers stay in worker_service.cc.
h2o_library(h2o_worker_door
  SRCS worker_health.cc worker_service.cc
  DEPS h2o_http h2o_model absl::status absl::statusor
  PRIVATE_DEPS absl::strings h2o_channel h2o_proto h2o_proto_stubs Threads::Threads)
h2o_binary(h2oserve-worker
  SRCS main.cc
  DEPS h2o_access h2o_worker_door h2o_worker_core h2o_channel h2o_cli_flags h2o_parallel
       CLI11::CLI11 Threads::Threads)

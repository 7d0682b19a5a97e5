# The coordinator's doors; gRPC's headers stay in these three files.
h2o_library(h2o_coordinator_door
  SRCS remote_workers.cc inference_service.cc
  DEPS h2o_api h2o_coordinator_core h2o_cli_flags
  PRIVATE_DEPS h2o_proto h2o_proto_stubs)
h2o_binary(h2oserve-coordinator
  SRCS main.cc
  DEPS h2o_coordinator_door h2o_proto CLI11::CLI11 gRPC::grpc++
       gRPC::grpc++_reflection)

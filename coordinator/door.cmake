# The coordinator's doors.
h2o_library(h2o_coordinator_door
  SRCS admin_service.cc completion_call.cc connections.cc doorkeeper.cc end_line.cc exposure.cc fault_files.cc
    fault_reports.cc generate_stream.cc greetings.cc http_service.cc inference_service.cc
    listen_sockets.cc openai_service.cc peer_address.cc reflection.cc remote_ranks.cc remote_workers.cc
    worker_registry.cc
    worker_stream.cc
  DEPS h2o_access h2o_api h2o_chat h2o_coordinator_core h2o_http h2o_openai h2o_web
  PRIVATE_DEPS nlohmann_json::nlohmann_json absl::str_format absl::time h2o_proto
    h2o_proto_stubs)
h2o_binary(h2oserve-coordinator
  SRCS guard.cc main.cc
  DEPS h2o_access h2o_coordinator_door h2o_channel h2o_cli_flags h2o_http CLI11::CLI11 gRPC::grpc++)

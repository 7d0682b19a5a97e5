# The coordinator's doors, with fakes on the other side, in one process.
h2o_test(connections_test
  SRCS connections_test.cc DEPS h2o_coordinator_door LABELS unit)
h2o_test(doorkeeper_test
  SRCS doorkeeper_test.cc DEPS h2o_coordinator_door OpenSSL::Crypto
  LABELS unit)
h2o_test(greetings_test
  SRCS greetings_test.cc DEPS h2o_coordinator_door LABELS unit)
h2o_test(fault_log_test
  SRCS fault_log_test.cc DEPS h2o_coordinator_door nlohmann_json::nlohmann_json
  LABELS unit)
h2o_test(inference_service_test
  SRCS inference_service_test.cc
  DEPS h2o_coordinator_door h2o_proto_stubs
  LABELS unit)
h2o_test(remote_workers_test
  SRCS remote_workers_test.cc
  DEPS h2o_coordinator_door h2o_worker_door h2o_proto h2o_proto_stubs gRPC::grpc++
  LABELS multiproc)

# The commands that need servers; gRPC's headers stay in call.cc.
h2o_library(h2o_clients_door
  SRCS batch.cc batch_file.cc batch_run.cc call.cc child_process.cc drain.cc http_caller.cc
    loadtest.cc loadtest_flags.cc loadtest_target.cc losses.cc openai_stream.cc response_headers.cc serve.cc
    server_flags.cc server_process.cc top.cc
  DEPS h2o_client h2o_clients
  PRIVATE_DEPS absl::flat_hash_set h2o_channel h2o_http h2o_loadtest h2o_openai h2o_proto CLI11::CLI11
    nlohmann_json::nlohmann_json Threads::Threads)
target_link_libraries(h2oserve PRIVATE h2o_clients_door)
target_compile_definitions(h2oserve PRIVATE H2O_WITH_GRPC)

# `cmake --install build/release --prefix DIR` makes a folder that runs where it
# was not built: built on Debian 12, on Debian 12 and Ubuntu 24.04 alike.  The
# programs have gRPC and all it needs in them (H2oArchives.cmake); beside them
# lie the few libraries that have no archive, but those of the system, of CUDA
# and of NCCL, which come with the machine.
set(programs h2oserve)
if(H2O_WITH_GRPC)
  list(APPEND programs h2oserve-coordinator h2oserve-worker)
endif()
set_target_properties(${programs} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
foreach(program ${programs})
  # DT_RPATH: also for what oneDNN needs.
  target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
endforeach()
install(TARGETS ${programs} RUNTIME_DEPENDENCY_SET h2o_libraries
  RUNTIME DESTINATION bin)
install(RUNTIME_DEPENDENCY_SET h2o_libraries DESTINATION lib
  PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|gcc_s)\\.so"
    "^libstdc\\+\\+" "^lib(cuda|cublas|nccl)")
install(DIRECTORY models/opt-demo DESTINATION share/h2oserve)
install(FILES LICENSE README.md CONTRIBUTING.md DESTINATION share/h2oserve)
install(DIRECTORY docs DESTINATION share/h2oserve)
install(FILES proto/inference.proto DESTINATION share/h2oserve/proto)
install(PROGRAMS tools/convert_checkpoint.py
  DESTINATION share/h2oserve/tools)

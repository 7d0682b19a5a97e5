# `cmake --install build/release --prefix DIR` makes a folder that runs on other
# machines: built on Debian 12, it runs on Debian 12 and Ubuntu 24.04.  gRPC and
# its dependencies are inside the programs (H2oArchives.cmake).  The few libraries
# without an archive are installed beside them.  Libraries of the system, of CUDA
# and of NCCL are the machine's.
set(programs h2oserve)
if(H2O_WITH_GRPC)
  list(APPEND programs h2oserve-coordinator h2oserve-worker)
endif()
set_target_properties(${programs} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
foreach(program ${programs})
  # DT_RPATH, unlike DT_RUNPATH, also finds the libraries that oneDNN needs.
  target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
endforeach()
install(TARGETS ${programs} RUNTIME_DEPENDENCY_SET h2o_libraries
  RUNTIME DESTINATION bin)
if(TARGET h2oserve_client)
  # For find_package(h2oserve) and for pkg-config.
  include(CMakePackageConfigHelpers)
  set(package lib/cmake/h2oserve)
  install(TARGETS h2oserve_client EXPORT h2oserve
    RUNTIME_DEPENDENCY_SET h2o_libraries
    LIBRARY DESTINATION lib FILE_SET HEADERS DESTINATION include)
  install(EXPORT h2oserve NAMESPACE h2oserve:: FILE h2oserveConfig.cmake
    DESTINATION ${package})
  write_basic_package_version_file(h2oserveConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
  configure_file(clients/cpp/h2oserve.pc.in h2oserve.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/h2oserveConfigVersion.cmake
    DESTINATION ${package})
  install(FILES ${CMAKE_BINARY_DIR}/h2oserve.pc DESTINATION lib/pkgconfig)
endif()
install(RUNTIME_DEPENDENCY_SET h2o_libraries DESTINATION lib
  PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|gcc_s)\\.so"
    "^libstdc\\+\\+" "^lib(cuda|cublas|nccl)")
install(DIRECTORY models/opt-demo DESTINATION share/h2oserve)
install(FILES LICENSE README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md
  DESTINATION share/h2oserve)
install(DIRECTORY deploy docs examples DESTINATION share/h2oserve
  USE_SOURCE_PERMISSIONS PATTERN __pycache__ EXCLUDE)
install(FILES proto/inference.proto proto/worker.proto
  DESTINATION share/h2oserve/proto)
install(PROGRAMS tools/convert_checkpoint.py
  DESTINATION share/h2oserve/tools)

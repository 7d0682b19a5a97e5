# h2oserve::client for other programs: a shared library that needs nothing of
# them.  gRPC and OpenSSL are inside and hidden.  The other libraries, of which
# some archives are not position-independent in Debian, are installed beside it.
pkg_check_modules(H2O_GRPC REQUIRED grpc++ protobuf)
set(libraries)
foreach(name IN LISTS H2O_GRPC_STATIC_LIBRARIES)
  set(archive /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/lib${name}.a)
  if(name MATCHES "^(grpc\\+\\+|grpc|gpr|upb|address_sorting|ssl|crypto)$" AND EXISTS ${archive})
    list(APPEND libraries ${archive})
  else()
    list(APPEND libraries -l${name})
  endif()
endforeach()

add_library(h2oserve_client SHARED $<TARGET_OBJECTS:h2o_client>)
target_sources(h2oserve_client PUBLIC FILE_SET HEADERS
  BASE_DIRS include FILES include/h2oserve/client.h)
target_compile_features(h2oserve_client INTERFACE cxx_std_17)
target_link_options(h2oserve_client
  PRIVATE -Wl,--as-needed -Wl,--exclude-libs,ALL -Wl,-z,defs
    -Wl,--disable-new-dtags  # DT_RPATH, so that these find each other
  INTERFACE $<INSTALL_INTERFACE:-Wl,-rpath-link,$<INSTALL_PREFIX>/lib>)
target_link_libraries(h2oserve_client PRIVATE -Wl,--start-group
  $<TARGET_FILE:h2o_access> $<TARGET_FILE:h2o_base> $<TARGET_FILE:h2o_channel>
  $<TARGET_FILE:h2o_proto_messages> $<TARGET_FILE:h2o_proto_stubs>
  ${libraries} -Wl,--end-group Threads::Threads)
set_target_properties(h2oserve_client PROPERTIES
  EXPORT_NAME client INSTALL_RPATH "$ORIGIN"
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})

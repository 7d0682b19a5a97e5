# The functions that make all targets: h2o_library, h2o_binary, h2o_test.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# Flags of sanitized builds: they compile in half the time of -O2 -g.
set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -g1")
set(CMAKE_C_FLAGS_SANITIZE "-O1 -g1")

add_library(h2o_flags INTERFACE)
target_include_directories(h2o_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(h2o_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror;-Wno-missing-field-initializers>
  # clang warns of what libstdc++ 12 does within std::stable_sort.
  $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wno-deprecated-declarations>
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-lineinfo>)
if(H2O_SANITIZE)
  # Instrumentation makes GCC warn of faults that are not there; its manual
  # advises against -Werror with -fsanitize.  All other builds refuse warnings.
  target_compile_options(h2o_flags INTERFACE -fsanitize=${H2O_SANITIZE}
    -fno-omit-frame-pointer -fno-sanitize-recover=all
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-error>)
  target_link_options(h2o_flags INTERFACE -fsanitize=${H2O_SANITIZE})
endif()
if(H2O_FUZZ)  # libFuzzer follows which branches an input takes
  target_compile_options(h2o_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

find_program(H2O_CCACHE ccache)
if(H2O_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${H2O_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${H2O_CCACHE})
endif()
find_program(H2O_MOLD mold)
if(H2O_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# h2o_library(NAME SRCS a.cc DEPS x PRIVATE_DEPS y); without SRCS: headers only.
function(h2o_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS})
    target_link_libraries(${name} PUBLIC h2o_flags ${ARG_DEPS}
      PRIVATE ${ARG_PRIVATE_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE h2o_flags ${ARG_DEPS})
  endif()
endfunction()

function(h2o_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE h2o_flags ${ARG_DEPS})
endfunction()

# h2o_test(NAME SRCS a_test.cc DEPS x LABELS unit TIMEOUT 60): a gtest binary,
# one ctest entry.  Labels: unit (milliseconds), multiproc, slow, gpu.
# ONE_THREAD: the test and what it calls start no thread, so the thread sanitizer
# has nothing to see in it and its build leaves it out.
function(h2o_test name)
  cmake_parse_arguments(ARG "ONE_THREAD" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(ARG_ONE_THREAD AND H2O_SANITIZE STREQUAL "thread")
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE h2o_flags ${ARG_DEPS}
    GTest::gmock GTest::gtest_main)
  # Of the test's own source; what it tests is checked in full.  These checks
  # of every access doubled the time that GCC takes for a test.
  if(H2O_SANITIZE MATCHES "undefined")
    target_compile_options(${name} PRIVATE
      -fno-sanitize=alignment,null,object-size,vptr)
  endif()
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES
    LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

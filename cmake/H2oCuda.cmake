# Enables CUDA as C++20 and finds the toolkit's libraries and NCCL.

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  # A100, and Hopper with the instructions that only Hopper has (wgmma, bulk copies).
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real)
endif()
if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  # Where the system has none, `tools/install_dependencies.sh --cuda` gets it.
  find_program(H2O_NVCC nvcc
    PATHS /usr/local/cuda/bin ${CMAKE_SOURCE_DIR}/build/cuda_toolkit/bin)
  if(H2O_NVCC)
    set(CMAKE_CUDA_COMPILER ${H2O_NVCC})
  endif()
endif()
enable_language(CUDA)
# CMake 3.25 knows CUDA only up to C++17.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
if(NOT TARGET CUDA::nvToolsExt)
  # CMake 3.25.1, Debian 12's, wants to mark this library, which CUDA 13 has not, as old.
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
endif()
find_package(CUDAToolkit REQUIRED)

find_path(NCCL_INCLUDE_DIR nccl_device.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
if(NOT NCCL_INCLUDE_DIR OR NOT NCCL_LIBRARY)
  message(FATAL_ERROR "NCCL 2.28 or newer (nccl_device.h, libnccl) was not found; "
    "it belongs to packages libnccl-dev or to the CUDA toolkit's folder")
endif()
add_library(h2o_nccl_import INTERFACE)
target_include_directories(h2o_nccl_import INTERFACE ${NCCL_INCLUDE_DIR})
target_link_libraries(h2o_nccl_import INTERFACE ${NCCL_LIBRARY})
